// Package runtime runs containers through containerd, without a sandbox container: a container joins namespaces that its
// pod already has. Everything that must outlive the process is kept as labels of the containers.
package runtime

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/cgroup"
	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/image"
)

// Config says which containerd to use, and how.
type Config struct {
	// Address is the path of containerd's socket.
	Address string
	// Namespace is containerd's, "skep" if empty.
	Namespace string
	// StateDir holds the pipes of the containers' output; it need not survive a reboot.
	StateDir string
	// CgroupRoot is where control groups are mounted, /sys/fs/cgroup if empty.
	CgroupRoot string
	// PodsCgroup is the group above all pods', which StopContainerd removes; cgroup.DefaultPods if empty.
	PodsCgroup string
	Logger     *slog.Logger
}

// Runtime is a containerd namespace. It is safe for concurrent use.
type Runtime struct {
	cfg     Config
	client  *containerd.Client
	tasks   tasks.TasksClient
	images  *image.Store
	cgroups *cgroup.Tree
	host    host
	hub     hub
	// ctx ends with Close; it bounds the goroutines that wait for containers.
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	records map[string]*record
}

// New connects to containerd. Containers that are there already are known after Adopt. The caller calls Close.
func New(ctx context.Context, cfg Config) (*Runtime, error) {
	if cfg.Namespace == "" {
		cfg.Namespace = "skep"
	}
	if cfg.CgroupRoot == "" {
		cfg.CgroupRoot = "/sys/fs/cgroup"
	}
	tree, err := cgroup.Detect(cfg.CgroupRoot, cfg.PodsCgroup)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(cfg.StateDir, "io"), 0o700); err != nil {
		return nil, fmt.Errorf("runtime state: %w", err)
	}
	client, err := containerd.New(cfg.Address, containerd.WithDefaultNamespace(cfg.Namespace))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", cfg.Address, err)
	}
	bounded, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &Runtime{
		cfg: cfg, client: client, tasks: client.TaskService(), images: image.NewStore(client), cgroups: tree,
		host: probeHost(tree), ctx: bounded, cancel: cancel, records: map[string]*record{},
	}
	return r, nil
}

// Close disconnects. Containers go on running; their output waits in the pipes for the next Runtime to adopt them.
func (r *Runtime) Close() error {
	r.cancel()
	r.hub.close()
	return r.client.Close()
}

// Cgroups returns the host's control groups.
func (r *Runtime) Cgroups() *cgroup.Tree { return r.cgroups }

// EnsureImage makes an image present as the policy says. Returns image.ErrInvalidName, image.ErrNeverPull or image.ErrPull.
func (r *Runtime) EnsureImage(ctx context.Context, ref string, policy corev1.PullPolicy, creds []container.Credential) (container.Image, error) {
	return r.images.Ensure(ctx, ref, policy, creds)
}

// ImageStatus returns an image that is present. Returns an error for which errdefs.IsNotFound holds if it is absent.
func (r *Runtime) ImageStatus(ctx context.Context, ref string) (container.Image, error) {
	return r.images.Status(ctx, ref)
}

// ListImages returns the images that are present.
func (r *Runtime) ListImages(ctx context.Context) ([]container.Image, error) {
	return r.images.List(ctx)
}

// RemoveImage removes a reference. A missing image is removed already.
func (r *Runtime) RemoveImage(ctx context.Context, ref string) error {
	return r.images.Remove(ctx, ref)
}

// ImportArchive imports the images of an OCI or Docker archive.
func (r *Runtime) ImportArchive(ctx context.Context, archive io.Reader) ([]container.Image, error) {
	return r.images.Import(ctx, archive)
}

// Version returns containerd's version.
func (r *Runtime) Version(ctx context.Context) (string, error) {
	v, err := r.client.Version(ctx)
	if err != nil {
		return "", fmt.Errorf("containerd version: %w", err)
	}
	return v.Version, nil
}

// List returns all containers, in no order.
func (r *Runtime) List(context.Context) ([]container.Status, error) {
	r.mu.Lock()
	all := make([]*record, 0, len(r.records))
	for _, rec := range r.records {
		all = append(all, rec)
	}
	r.mu.Unlock()
	out := make([]container.Status, 0, len(all))
	for _, rec := range all {
		out = append(out, rec.get())
	}
	return out, nil
}

// Status returns one container. Returns an error for which errdefs.IsNotFound holds if there is none.
func (r *Runtime) Status(_ context.Context, id string) (container.Status, error) {
	rec, err := r.lookup(id)
	if err != nil {
		return container.Status{}, err
	}
	return rec.get(), nil
}

// Stats returns what a container uses now.
func (r *Runtime) Stats(_ context.Context, id string) (cgroup.Usage, error) {
	rec, err := r.lookup(id)
	if err != nil {
		return cgroup.Usage{}, err
	}
	return r.cgroups.Usage(rec.fixed.Cgroup), nil
}

func (r *Runtime) lookup(id string) (*record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.records[id]; rec != nil {
		return rec, nil
	}
	return nil, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
}

func (r *Runtime) ioDir(id string) string { return filepath.Join(r.cfg.StateDir, "io", id) }
