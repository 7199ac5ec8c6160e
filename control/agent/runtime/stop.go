package runtime

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/moby/sys/signal"

	"github.com/skep-io/skep/control/agent/container"
)

// Stop asks a container to end with its stop signal, kills it after the grace period, and returns when it has ended.
// A container that is gone has stopped.
func (r *Runtime) Stop(ctx context.Context, id string, grace time.Duration) error {
	rec, err := r.lookup(id)
	if err != nil || rec.get().State != container.Running {
		return nil
	}
	if grace <= 0 {
		return r.Kill(ctx, id)
	}
	sig, err := signal.ParseSignal(rec.fixed.StopSignal)
	if err != nil {
		sig = syscall.SIGTERM
	}
	if err := r.Signal(ctx, id, sig); err != nil {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-rec.exited:
		return nil
	case <-timer.C:
		return r.Kill(ctx, id)
	case <-ctx.Done():
		return fmt.Errorf("stop container %s: %w", id, ctx.Err())
	}
}

// Signal sends a signal to the container's first process. A container that has ended is left as it is.
func (r *Runtime) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	return r.signal(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(sig)})
}

// Kill ends all processes of a container at once and returns when it has ended. A container that is gone has ended.
func (r *Runtime) Kill(ctx context.Context, id string) error {
	rec, err := r.lookup(id)
	if err != nil || rec.get().State != container.Running {
		return nil
	}
	if err := r.signal(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(syscall.SIGKILL), All: true}); err != nil {
		return err
	}
	select {
	case <-rec.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill container %s: %w", id, ctx.Err())
	}
}

func (r *Runtime) signal(ctx context.Context, request *tasks.KillRequest) error {
	_, err := r.tasks.Kill(ctx, request)
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("signal container %s: %w", request.ContainerID, err)
	}
	return nil
}
