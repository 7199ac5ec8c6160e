package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/image"
)

// Start runs a created container. If it cannot run, the container has exited with code 128 and reason StartError, and the
// error says why. A container that has started already is left as it is.
func (r *Runtime) Start(ctx context.Context, id string) error {
	rec, err := r.lookup(id)
	if err != nil {
		return err
	}
	rec.life.Lock()
	defer rec.life.Unlock()
	if rec.get().State != container.Created {
		return nil
	}
	// Half a start would leave a task that nobody waits for.
	ctx = context.WithoutCancel(ctx)
	pid, err := r.launch(ctx, rec)
	if err != nil {
		err = fmt.Errorf("failed to create containerd task: %w", err)
		r.failed(ctx, rec, err)
		return err
	}
	s := state{State: container.Running, Pid: int(pid), Started: time.Now().UTC()}
	if err := r.save(ctx, rec, s); err != nil {
		r.cfg.Logger.Warn("container start not recorded", "container", id, "err", err)
	}
	rec.set(s)
	r.hub.publish(rec.event(container.EventStarted))
	go r.await(rec)
	return nil
}

// launch makes and starts the task, and begins to copy its output.
func (r *Runtime) launch(ctx context.Context, rec *record) (pid uint32, err error) {
	p := r.pipes(rec)
	if err := p.create(); err != nil {
		return 0, err
	}
	readers, release, err := p.open(true)
	if err != nil {
		return 0, err
	}
	// Once the task exists, its shim holds the pipes; without a task, reading ends here.
	defer release()
	output, err := copyOutput(rec.fixed.Status.LogPath, readers)
	if err != nil {
		return 0, err
	}
	in, err := p.openStdin()
	if err != nil {
		return 0, err
	}
	rec.mu.Lock()
	rec.output, rec.stdin = output, in
	rec.mu.Unlock()
	request, err := r.taskRequest(ctx, rec, p)
	if err != nil {
		return 0, err
	}
	if _, err := r.tasks.Create(ctx, request); err != nil {
		return 0, errgrpc.ToNative(err)
	}
	started, err := r.tasks.Start(ctx, &tasks.StartRequest{ContainerID: rec.id()})
	if err != nil {
		_, _ = r.tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: rec.id()})
		return 0, errgrpc.ToNative(err)
	}
	return started.Pid, nil
}

func (r *Runtime) taskRequest(ctx context.Context, rec *record, p pipes) (*tasks.CreateTaskRequest, error) {
	mounts := rec.mounts
	if mounts == nil {
		var err error
		if mounts, err = r.client.SnapshotService(image.Snapshotter).Mounts(ctx, rec.id()); err != nil {
			return nil, fmt.Errorf("file system of container %s: %w", rec.id(), err)
		}
	}
	request := &tasks.CreateTaskRequest{ContainerID: rec.id(), Terminal: rec.fixed.TTY, Stdout: p.path("stdout")}
	if !p.tty {
		request.Stderr = p.path("stderr")
	}
	if p.stdin {
		request.Stdin = p.path("stdin")
	}
	for _, m := range mounts {
		request.Rootfs = append(request.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return request, nil
}

func (r *Runtime) pipes(rec *record) pipes {
	return pipes{dir: r.ioDir(rec.id()), tty: rec.fixed.TTY, stdin: rec.fixed.Stdin}
}

// failed records a start that did not come about, as containerd's CRI does.
func (r *Runtime) failed(ctx context.Context, rec *record, cause error) {
	message := cause.Error()
	if len(message) > maxMessage {
		message = message[:maxMessage]
	}
	now := time.Now().UTC()
	r.finish(ctx, rec, state{State: container.Exited, Started: time.Unix(0, 0).UTC(), Ended: now, ExitCode: 128, Reason: "StartError", Message: message})
	close(rec.gone)
}

// save writes the state to the container's labels: what is not there is lost with this process.
func (r *Runtime) save(ctx context.Context, rec *record, s state) error {
	value, err := encode(s)
	if err != nil {
		return err
	}
	c := containers.Container{ID: rec.id(), Labels: map[string]string{labelState: value}}
	_, err = r.client.ContainerService().Update(ctx, c, "labels."+labelState)
	return err
}

// forget drops what the process holds of a container that is no more.
func (r *Runtime) forget(rec *record) {
	r.mu.Lock()
	delete(r.records, rec.id())
	r.mu.Unlock()
	rec.mu.Lock()
	rec.stdin.close()
	rec.mu.Unlock()
	if err := os.RemoveAll(r.ioDir(rec.id())); err != nil && !errors.Is(err, os.ErrNotExist) {
		r.cfg.Logger.Warn("container pipes not removed", "container", rec.id(), "err", err)
	}
	if err := r.cgroups.Remove(rec.fixed.Cgroup); err != nil && !errdefs.IsNotFound(err) {
		r.cfg.Logger.Warn("container cgroup not removed", "container", rec.id(), "err", err)
	}
}
