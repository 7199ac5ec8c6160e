// Package fake runs containers in memory, for tests: nothing executes, and the test decides when a container ends.
package fake

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/image"
)

// Runtime behaves as the containerd one. The zero value is not ready: call New. It is safe for concurrent use.
type Runtime struct {
	mu         sync.Mutex
	next       int
	containers map[string]*container.Status
	configs    map[string]container.Config
	images     map[string]container.Image
	subs       []chan container.Event
	// StartError and ExecResult, where set, answer for the real thing.
	StartError func(container.Config) error
	ExecResult func(id string, cmd []string) (stdout, stderr []byte, code int, err error)
}

// New makes a runtime that has these images.
func New(images ...string) *Runtime {
	r := &Runtime{containers: map[string]*container.Status{}, configs: map[string]container.Config{}, images: map[string]container.Image{}}
	for _, ref := range images {
		r.images[ref] = container.Image{ID: "sha256:" + ref, Ref: ref, Tags: []string{ref}}
	}
	return r
}

// EnsureImage knows the images that New was given. Returns image.ErrNeverPull or image.ErrPull for others.
func (r *Runtime) EnsureImage(_ context.Context, ref string, policy corev1.PullPolicy, _ []container.Credential) (container.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if img, ok := r.images[ref]; ok {
		return img, nil
	}
	if policy == corev1.PullNever {
		return container.Image{}, fmt.Errorf("%w: %s", image.ErrNeverPull, ref)
	}
	return container.Image{}, fmt.Errorf("%w: %s", image.ErrPull, ref)
}

// Create makes a container.
func (r *Runtime) Create(_ context.Context, cfg container.Config) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	id := fmt.Sprintf("fake-%d", r.next)
	r.configs[id] = cfg
	r.containers[id] = &container.Status{
		ID: id, PodUID: cfg.PodUID, PodNamespace: cfg.PodNamespace, PodName: cfg.PodName, Name: cfg.Name, Attempt: cfg.Attempt,
		Init: cfg.Init, State: container.Created, CreatedAt: time.Now(), Image: cfg.Image, ImageID: "sha256:" + cfg.Image,
		LogPath: cfg.LogPath, TerminationMessagePath: cfg.TerminationMessagePath, SpecHash: cfg.SpecHash,
	}
	return id, nil
}

// Start makes a created container run.
func (r *Runtime) Start(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.containers[id]
	if s == nil {
		return fmt.Errorf("container %q: not found", id)
	}
	if s.State != container.Created {
		return nil
	}
	if r.StartError != nil {
		if err := r.StartError(r.configs[id]); err != nil {
			s.State, s.ExitCode, s.Reason, s.Message, s.FinishedAt = container.Exited, 128, "StartError", err.Error(), time.Now()
			r.publish(s, container.EventExited)
			return err
		}
	}
	s.State, s.StartedAt, s.Pid = container.Running, time.Now(), 1
	r.publish(s, container.EventStarted)
	return nil
}

// Exit ends a running container with a code, as its program would.
func (r *Runtime) Exit(id string, code int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.containers[id]
	if s == nil || s.State != container.Running {
		return
	}
	s.State, s.ExitCode, s.FinishedAt, s.Pid, s.Reason = container.Exited, code, time.Now(), 0, "Error"
	if code == 0 {
		s.Reason = "Completed"
	}
	r.publish(s, container.EventExited)
}

// Stop ends a container at once with code 143.
func (r *Runtime) Stop(_ context.Context, id string, _ time.Duration) error {
	r.Exit(id, 143)
	return nil
}

// Kill ends a container at once with code 137.
func (r *Runtime) Kill(_ context.Context, id string) error {
	r.Exit(id, 137)
	return nil
}

// Remove forgets a container.
func (r *Runtime) Remove(_ context.Context, id string) error {
	r.Exit(id, 137)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, id)
	delete(r.configs, id)
	return nil
}

// List returns all containers, in no order.
func (r *Runtime) List(context.Context) ([]container.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []container.Status
	for _, s := range r.containers {
		out = append(out, *s)
	}
	return out, nil
}

// Status returns one container.
func (r *Runtime) Status(_ context.Context, id string) (container.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.containers[id]; s != nil {
		return *s, nil
	}
	return container.Status{}, fmt.Errorf("container %q: not found", id)
}

// Config returns what a container was created with.
func (r *Runtime) Config(id string) (container.Config, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cfg, ok := r.configs[id]
	return cfg, ok
}

// ExecSync answers with ExecResult, or succeeds without output.
func (r *Runtime) ExecSync(_ context.Context, id string, cmd []string, _ time.Duration) (stdout, stderr []byte, code int, err error) {
	if r.ExecResult != nil {
		return r.ExecResult(id, cmd)
	}
	return nil, nil, 0, nil
}

// Subscribe returns the events from now on; up to 1024 wait for a slow reader.
func (r *Runtime) Subscribe(ctx context.Context) <-chan container.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	ch := make(chan container.Event, 1024)
	r.subs = append(r.subs, ch)
	context.AfterFunc(ctx, func() { r.unsubscribe(ch) })
	return ch
}

func (r *Runtime) unsubscribe(ch chan container.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, sub := range r.subs {
		if sub == ch {
			r.subs = append(r.subs[:i], r.subs[i+1:]...)
			close(ch)
			return
		}
	}
}

// publish is called with mu held.
func (r *Runtime) publish(s *container.Status, t container.EventType) {
	for _, ch := range r.subs {
		ch <- container.Event{Type: t, ID: s.ID, PodUID: s.PodUID, Name: s.Name}
	}
}
