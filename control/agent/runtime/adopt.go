package runtime

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/image"
)

// Adopt takes over the containers that another process left: it goes on copying the output of those that run, and records
// the end of those that ended meanwhile. It is called once, before any other method that concerns containers.
func (r *Runtime) Adopt(ctx context.Context) error {
	all, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	listed, err := r.tasks.List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return fmt.Errorf("list tasks: %w", err)
	}
	running := map[string]*task.Process{}
	for _, t := range listed.GetTasks() {
		running[t.ID] = t
	}
	known := map[string]bool{}
	for _, c := range all {
		known[c.ID] = true
		rec, err := decode(c.Labels)
		if err != nil {
			r.cfg.Logger.Warn("container not adopted", "container", c.ID, "err", err)
			continue
		}
		r.mu.Lock()
		r.records[c.ID] = rec
		r.mu.Unlock()
		r.resume(rec, running[c.ID])
	}
	return r.sweep(ctx, known)
}

// resume continues where the last process was killed.
func (r *Runtime) resume(rec *record, t *task.Process) {
	switch s := rec.state.State; {
	case s == container.Exited:
		close(rec.exited)
		if t == nil {
			close(rec.gone)
			return
		}
		go r.discard(rec)
	case t == nil && s == container.Created:
		// Created and never started: the owner starts or removes it.
	case t == nil:
		r.lost(rec)
	case t.Status == task.Status_CREATED:
		// Killed between making and starting the task: its program has not run, so it is made anew.
		if _, err := r.tasks.Delete(r.ctx, &tasks.DeleteTaskRequest{ContainerID: rec.id()}); err != nil {
			r.cfg.Logger.Warn("task not deleted", "container", rec.id(), "err", err)
		}
	default:
		rec.state.State, rec.state.Pid = container.Running, int(t.Pid)
		if rec.state.Started.IsZero() {
			rec.state.Started = rec.fixed.Status.CreatedAt
		}
		r.reopen(rec)
		go r.await(rec)
	}
}

// reopen goes on copying output. What the container wrote meanwhile waits in the pipe.
func (r *Runtime) reopen(rec *record) {
	p := r.pipes(rec)
	readers, _, err := p.open(false)
	if err != nil {
		r.cfg.Logger.Warn("container output lost", "container", rec.id(), "err", err)
		return
	}
	if rec.output, err = copyOutput(rec.fixed.Status.LogPath, readers); err != nil {
		r.cfg.Logger.Warn("container output lost", "container", rec.id(), "err", err)
	}
	if rec.stdin, err = p.openStdin(); err != nil {
		r.cfg.Logger.Warn("container input lost", "container", rec.id(), "err", err)
	}
}

// sweep removes file systems whose container was never stored: the process was killed between the two steps.
func (r *Runtime) sweep(ctx context.Context, known map[string]bool) error {
	snaps := r.client.SnapshotService(image.Snapshotter)
	var stale []string
	err := snaps.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Labels["containerd.io/gc.root"] == "skep" && !known[info.Name] && !strings.HasPrefix(info.Name, "sha256:") {
			stale = append(stale, info.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range stale {
		if err := snaps.Remove(ctx, name); err != nil {
			r.cfg.Logger.Warn("snapshot not removed", "snapshot", name, "err", err)
		}
	}
	return nil
}
