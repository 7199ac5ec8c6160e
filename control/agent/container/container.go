// Package container holds the nouns that the pod state machine and the container runtime share: what a container should be
// (Config) and what it is (Status). It has no behaviour and no I/O.
package container

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Config is all that a runtime needs to create one container. It is computed purely from a Pod and its resolved inputs.
type Config struct {
	// PodUID, PodNamespace, PodName and Name identify the container; Attempt counts its restarts from 0.
	PodUID       types.UID
	PodNamespace string
	PodName      string
	Name         string
	Attempt      uint32
	// Init marks an init container.
	Init bool

	// Image is the reference that EnsureImage resolved; Command and Args replace the image's entrypoint and cmd where not empty.
	Image      string
	Command    []string
	Args       []string
	WorkingDir string
	// Env is complete and expanded, in order; it is appended to the image's environment, later entries winning.
	Env []EnvVar

	TTY       bool
	Stdin     bool
	StdinOnce bool

	Mounts []Mount

	// NetNS, IPCNS and UTSNS are paths of pinned namespaces to join; empty means the host's. PIDNS is a path to join
	// (shared process namespace), empty means a new one unless HostPID.
	NetNS, IPCNS, UTSNS, PIDNS string
	HostPID                    bool

	// CgroupParent is the pod's cgroup path relative to the cgroup root, for example /kubepods/burstable/pod<uid>.
	CgroupParent string
	Resources    Resources
	Security     Security

	// LogPath is the absolute path of the CRI-format log file that the runtime writes.
	LogPath string
	// TerminationMessagePath is the absolute path on the host of the file mounted as termination log, empty for none.
	TerminationMessagePath string
	// StopSignal overrides the image's, e.g. "SIGUSR1"; empty means the image's or SIGTERM.
	StopSignal string
	// SpecHash is opaque to the runtime: it is stored with the container and returned in Status.
	SpecHash string
}

// EnvVar is one environment variable.
type EnvVar struct{ Name, Value string }

// Mount binds a host path into the container.
type Mount struct {
	Source, Target string
	ReadOnly       bool
	// Propagation is "private" (or empty), "rslave" or "rshared".
	Propagation string
}

// Resources are the limits of one container's cgroup. Zero means not set.
type Resources struct {
	// CPUShares is the relative weight in cgroup v1 shares (2..262144); the runtime converts it for v2.
	CPUShares uint64
	// CPUQuota is in microseconds of CPU time each CPUPeriod microseconds.
	CPUQuota  int64
	CPUPeriod uint64
	// MemoryLimit is in bytes.
	MemoryLimit int64
	// OOMScoreAdj is -1000..1000.
	OOMScoreAdj int
}

// Security is the effective security context: pod and container level merged.
type Security struct {
	Privileged               bool
	RunAsUser                *int64
	RunAsGroup               *int64
	SupplementalGroups       []int64
	RunAsNonRoot             bool
	ReadOnlyRootFilesystem   bool
	AllowPrivilegeEscalation *bool
	AddCapabilities          []string
	DropCapabilities         []string
	// Seccomp is "RuntimeDefault", "Unconfined" or the absolute path of a profile; empty means RuntimeDefault.
	Seccomp string
	// Sysctls of the pod's namespaces.
	Sysctls map[string]string
}

// State is where a container is in its life; it never goes back.
type State string

// The states of a container.
const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
)

// Status is a container as the runtime sees it.
type Status struct {
	ID           string
	PodUID       types.UID
	PodNamespace string
	PodName      string
	Name         string
	Attempt      uint32
	Init         bool
	State        State
	CreatedAt    time.Time
	StartedAt    time.Time
	FinishedAt   time.Time
	ExitCode     int32
	// Signal is the signal number that ended the container, 0 for none.
	Signal int32
	// OOMKilled says that the kernel killed it for exceeding its memory limit.
	OOMKilled bool
	// Reason and Message explain a start that failed ("StartError", …).
	Reason, Message string
	Pid             int
	// Image is the reference asked for, ImageID the digest reference of what runs.
	Image, ImageID         string
	LogPath                string
	TerminationMessagePath string
	SpecHash               string
}

// EventType is what happened to a container.
type EventType string

// The events of a runtime.
const (
	EventStarted EventType = "started"
	EventExited  EventType = "exited"
	EventOOM     EventType = "oom"
)

// Event says that a container changed; the consumer asks for its Status. Events may be repeated and may be late, never lost
// while the subscription lives; a lost subscription ends with its channel closed, and the consumer lists again.
type Event struct {
	Type   EventType
	ID     string
	PodUID types.UID
	Name   string
}

// Credential is a login for a registry.
type Credential struct{ Registry, Username, Password, Token string }

// Image is an image on the node.
type Image struct {
	// ID is the digest of the image's config, Ref a pullable reference with digest where known.
	ID, Ref string
	Tags    []string
	Size    int64
	// User is the image's USER, for runAsNonRoot.
	User string
}
