package runtime

import (
	"context"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/log"
)

// drain is how long the rest of the output of a dead container is waited for: another process may hold its end open.
const drain = 500 * time.Millisecond

// await waits for the container to end, across restarts of containerd, and records how it ended.
func (r *Runtime) await(rec *record) {
	var exit *tasks.WaitResponse
	for {
		var err error
		// A containerd that is away is waited for by the connection, not asked again and again.
		exit, err = r.tasks.Wait(r.ctx, &tasks.WaitRequest{ContainerID: rec.id()}, grpc.WaitForReady(true))
		if err == nil {
			break
		}
		if r.ctx.Err() != nil {
			return
		}
		if errdefs.IsNotFound(errgrpc.ToNative(err)) {
			r.lost(rec)
			return
		}
		r.cfg.Logger.Warn("waiting for container", "container", rec.id(), "err", err)
		if !sleep(r.ctx, drain) {
			return
		}
	}
	r.ended(rec, int32(exit.GetExitStatus()), exit.GetExitedAt().AsTime())
}

// ended records an exit, and only then deletes the task, which is the other place that knows of it.
func (r *Runtime) ended(rec *record, code int32, at time.Time) {
	rec.mu.Lock()
	s, output := rec.state, rec.output
	rec.mu.Unlock()
	if output != nil {
		select {
		case <-output.Done():
		case <-time.After(drain):
		}
	}
	s.State, s.Pid, s.ExitCode, s.Ended = container.Exited, 0, code, at.UTC()
	if s.Started.IsZero() {
		s.Started = rec.fixed.Status.CreatedAt
	}
	s.OOM = r.cgroups.OOMKills(rec.fixed.Cgroup) > 0
	switch {
	case s.OOM:
		s.Reason = "OOMKilled"
	case code == 0:
		s.Reason = "Completed"
	default:
		s.Reason = "Error"
	}
	if s.OOM {
		r.hub.publish(rec.event(container.EventOOM))
	}
	if r.finish(r.ctx, rec, s) {
		r.discard(rec)
		return
	}
	// The task still knows how the container ended: it stays until the container is removed or the next process records it.
	rec.mu.Lock()
	rec.taskKept = true
	rec.mu.Unlock()
	close(rec.gone)
}

// lost records the end of a container whose exit code nobody knows any more, for instance after a reboot.
func (r *Runtime) lost(rec *record) {
	rec.mu.Lock()
	s := rec.state
	rec.mu.Unlock()
	s.State, s.Pid, s.ExitCode, s.Ended, s.Reason = container.Exited, 0, 137, time.Now().UTC(), "ContainerStatusUnknown"
	s.Message = "The container could not be located when the node was restarted. The container used to be Running"
	r.finish(r.ctx, rec, s)
	close(rec.gone)
}

// finish records an exit and tells everybody. It says whether the record will outlive the process.
func (r *Runtime) finish(ctx context.Context, rec *record, s state) (saved bool) {
	err := r.save(ctx, rec, s)
	if saved = err == nil || errdefs.IsNotFound(err); !saved {
		r.cfg.Logger.Warn("container exit not recorded", "container", rec.id(), "err", err)
	}
	rec.set(s)
	rec.mu.Lock()
	rec.stdin.close()
	rec.mu.Unlock()
	close(rec.exited)
	if path := rec.fixed.Status.LogPath; path != "" {
		if err := log.Wake(path); err != nil {
			r.cfg.Logger.Debug("log followers not woken", "path", path, "err", err)
		}
	}
	r.hub.publish(rec.event(container.EventExited))
	return saved
}

// discard deletes the task of a container whose exit is recorded.
func (r *Runtime) discard(rec *record) {
	defer close(rec.gone)
	if err := r.deleteTask(r.ctx, rec.id()); err != nil && r.ctx.Err() == nil {
		r.cfg.Logger.Warn("task not deleted", "container", rec.id(), "err", err)
	}
}

// deleteTask deletes a task that has ended. One that is gone is deleted already.
func (r *Runtime) deleteTask(ctx context.Context, id string) error {
	_, err := r.tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
