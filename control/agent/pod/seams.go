package pod

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/control/agent/container"
)

// Runtime runs containers. Stop, Kill and Remove of a container that is gone return nil.
type Runtime interface {
	EnsureImage(ctx context.Context, ref string, policy corev1.PullPolicy, creds []container.Credential) (container.Image, error)
	Create(ctx context.Context, cfg container.Config) (id string, err error)
	Start(ctx context.Context, id string) error
	Stop(ctx context.Context, id string, grace time.Duration) error
	Kill(ctx context.Context, id string) error
	Remove(ctx context.Context, id string) error
	List(ctx context.Context) ([]container.Status, error)
	Status(ctx context.Context, id string) (container.Status, error)
	Subscribe(ctx context.Context) <-chan container.Event
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, code int, err error)
}

// Prepared is what all containers of a pod share.
type Prepared struct {
	// IPs are the pod's own addresses; empty for a pod in the host's network.
	IPs []netip.Addr
	// NetNS, IPCNS and UTSNS are paths of pinned namespaces, empty for the host's.
	NetNS, IPCNS, UTSNS string
	// CgroupParent is the pod's cgroup relative to the cgroup root.
	CgroupParent string
	// Mounts are the files that every container gets: /etc/hosts, /etc/hostname, /etc/resolv.conf, /dev/shm.
	Mounts []container.Mount
	// Sysctls to set in the pod's namespaces.
	Sysctls map[string]string
}

// Sandboxes makes and removes what the containers of a pod share. Both methods are idempotent, and Prepare after a crash
// returns what it returned before.
type Sandboxes interface {
	Prepare(ctx context.Context, p *corev1.Pod) (Prepared, error)
	Remove(ctx context.Context, uid string) error
	// Retain removes the sandboxes of all pods but these.
	Retain(ctx context.Context, uids []string) error
}

// Volumes makes and removes the volumes of pods. Prepare and Remove are idempotent.
type Volumes interface {
	Prepare(ctx context.Context, p *corev1.Pod) error
	// Mounts resolves the volume mounts of one container to paths on the host.
	Mounts(p *corev1.Pod, c *corev1.Container) ([]container.Mount, error)
	Remove(ctx context.Context, uid string) error
	Retain(ctx context.Context, uids []string) error
}

// Inputs resolves what a container's configuration refers to.
type Inputs interface {
	// Env returns the container's complete environment. Its errors read as users expect of CreateContainerConfigError.
	Env(ctx context.Context, p *corev1.Pod, c *corev1.Container) ([]container.EnvVar, error)
	// Credentials returns the logins of the pod's pull secrets, and the names of those that could not be read.
	Credentials(ctx context.Context, p *corev1.Pod) (creds []container.Credential, missing []string)
	// Release forgets the pod.
	Release(uid string)
}

// Config is what a Manager needs; all fields are required.
type Config struct {
	NodeName string
	// HostIPs are the node's addresses, primary first.
	HostIPs []netip.Addr
	// LogDir is the root of container logs, PodsDir that of the pods' directories.
	LogDir, PodsDir string
	// SeccompDir is where the seccomp profiles lie that pods name.
	SeccompDir string
	Client     kubernetes.Interface
	Runtime    Runtime
	Sandboxes  Sandboxes
	Volumes    Volumes
	Inputs     Inputs
	// Admit says whether the node takes a pod, given those that it runs.
	Admit    func(p *corev1.Pod, running []*corev1.Pod) *Rejection
	Recorder record.EventRecorder
	Logger   *slog.Logger
}
