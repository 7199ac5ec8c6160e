package pod

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	// retryFirst and retryMost are how long to wait after network or volumes failed; the wait doubles in between.
	retryFirst, retryMost = 500 * time.Millisecond, 2 * time.Minute
	// runError is why a container waits whose program could not be started.
	runError = "RunContainerError"
	// retryStop is how long to wait after a container could not be stopped or removed.
	retryStop = time.Second
	// minimumGrace is what a container gets after its preStop hook has used up the pod's grace.
	minimumGrace = 2 * time.Second
)

// prepare makes the sandbox and the volumes ready, side by side: neither needs the other.
func (w *worker) prepare(ctx context.Context, p *corev1.Pod) {
	var shared Prepared
	var sandboxErr, volumeErr error
	var both sync.WaitGroup
	both.Go(func() { shared, sandboxErr = w.cfg.Sandboxes.Prepare(ctx, p) })
	both.Go(func() { volumeErr = w.cfg.Volumes.Prepare(ctx, p) })
	both.Wait()
	if ctx.Err() == nil {
		if sandboxErr != nil {
			w.event(p, "", corev1.EventTypeWarning, "FailedCreatePodSandBox", fmt.Sprintf("Failed to create pod sandbox: %v", sandboxErr))
		}
		if volumeErr != nil {
			w.event(p, "", corev1.EventTypeWarning, "FailedMount", volumeErr.Error())
		}
	}
	w.change(func() {
		w.view.Sandbox.Busy = false
		if sandboxErr != nil || volumeErr != nil {
			w.log.Warn("prepare pod", "err", errors.Join(sandboxErr, volumeErr))
			w.retryWait = min(max(2*w.retryWait, retryFirst), retryMost)
			w.view.Sandbox.RetryAt = time.Now().Add(w.retryWait)
			return
		}
		w.shared = shared
		w.view.Sandbox.Ready = true
		for _, ip := range shared.IPs {
			w.view.Sandbox.IPs = append(w.view.Sandbox.IPs, ip.String())
		}
	})
}

// tearDown undoes prepare. A failure is tried again: the pod is not reported gone while something of it is left.
func (w *worker) tearDown(ctx context.Context, p *corev1.Pod) {
	uid := string(p.UID)
	w.cfg.Inputs.Release(uid)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		var network, volumes error
		var both sync.WaitGroup
		both.Go(func() { network = w.cfg.Sandboxes.Remove(ctx, uid) })
		both.Go(func() { volumes = w.cfg.Volumes.Remove(ctx, uid) })
		both.Wait()
		err := errors.Join(network, volumes)
		if err == nil {
			break
		}
		w.log.Warn("tear down pod", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	w.change(func() {
		w.view.Sandbox.Busy, w.view.Sandbox.Ready, w.view.Sandbox.Removed = false, false, true
	})
}

// start pulls, creates and starts a container, and runs its postStart hook. starting ends when the pod is to stop.
func (w *worker) start(ctx, starting context.Context, p *corev1.Pod, a Action) {
	c := find(p, a.Container)
	id, fault := w.launch(starting, p, c, a.Attempt)
	if fault != nil {
		w.change(func() { w.fail(c.Name, fault) })
		if id != "" {
			w.refresh(ctx, id)
		}
		return
	}
	w.change(func() { delete(w.view.Waiting, c.Name) })
	w.refresh(ctx, id)
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		if err := w.hook(starting, p, c, id, c.Lifecycle.PostStart); err != nil && starting.Err() == nil {
			w.event(p, c.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
			w.log.Info("postStart hook", "container", c.Name, "err", err)
			w.change(func() { w.view.Health[id] = Health{Failed: CausePostStart} })
		}
	}
	w.change(func() {
		delete(w.view.Busy, c.Name)
		w.allowProbes(ctx, id)
	})
}

// fault is why a container did not start.
type fault struct {
	Waiting
	// retry is how long to wait before the next attempt.
	retry time.Duration
}

// fail records a start that came to nothing. The caller holds w.mu.
func (w *worker) fail(name string, f *fault) {
	delete(w.view.Busy, name)
	if errors.Is(w.startCtx.Err(), context.Canceled) {
		return
	}
	now := time.Now()
	f.Since, f.RetryAt = now, now.Add(f.retry)
	w.view.Waiting[name] = f.Waiting
}

// launch takes a container from its spec to a running process.
func (w *worker) launch(ctx context.Context, p *corev1.Pod, c *corev1.Container, attempt uint32) (string, *fault) {
	image, f := w.pull(ctx, p, c)
	if f != nil {
		return "", f
	}
	w.mu.Lock()
	shared := w.shared
	w.mu.Unlock()
	cfg, err := w.cfg.configure(ctx, p, c, shared, image, attempt)
	if err != nil {
		w.event(p, c.Name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		return "", &fault{Waiting{Reason: "CreateContainerConfigError", Message: err.Error()}, retryConfig}
	}
	id, err := w.cfg.Runtime.Create(ctx, cfg)
	if err != nil {
		w.event(p, c.Name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		return "", &fault{Waiting{Reason: "CreateContainerError", Message: err.Error()}, retryConfig}
	}
	w.event(p, c.Name, corev1.EventTypeNormal, "Created", "Container created")
	if err := w.cfg.Runtime.Start(ctx, id); err != nil {
		w.event(p, c.Name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		return id, &fault{Waiting{Reason: runError, Message: err.Error()}, 0}
	}
	w.event(p, c.Name, corev1.EventTypeNormal, "Started", "Container started")
	return id, nil
}

// beginStop starts to stop a container. The caller holds w.mu.
func (w *worker) beginStop(ctx context.Context, a Action) {
	grace := time.Duration(a.Grace) * time.Second
	stopCtx, cancel := context.WithCancel(ctx)
	w.stops[a.Container] = &stopping{deadline: time.Now().Add(grace), cancel: cancel}
	go w.stop(ctx, stopCtx, cancel, w.pod, a, grace)
}

// hasten cuts stops short whose pod has been given less time since they began. The caller holds w.mu.
func (w *worker) hasten() {
	if w.pod.DeletionTimestamp == nil {
		return
	}
	limit := w.pod.DeletionTimestamp.Time
	if w.pod.DeletionGracePeriodSeconds != nil && *w.pod.DeletionGracePeriodSeconds == 0 {
		limit = time.Now()
	}
	for _, s := range w.stops {
		if limit.Before(s.deadline.Add(-time.Second)) {
			s.deadline = limit
			// A timer that fires after the stop has ended cancels what is cancelled.
			time.AfterFunc(time.Until(limit), s.cancel)
		}
	}
}

// stop runs the preStop hook within the grace and then stops the container. When stopCtx is cancelled it is killed at once.
func (w *worker) stop(ctx, stopCtx context.Context, cancel context.CancelFunc, p *corev1.Pod, a Action, grace time.Duration) {
	defer cancel()
	begun := time.Now()
	c := find(p, a.Container)
	w.event(p, a.Container, corev1.EventTypeNormal, "Killing", a.Message)
	if c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil && grace > 0 {
		w.preStop(stopCtx, p, c, a.ID, grace)
		grace = max(grace-time.Since(begun), minimumGrace)
	}
	err := w.cfg.Runtime.Stop(stopCtx, a.ID, grace)
	if stopCtx.Err() != nil && ctx.Err() == nil {
		err = w.cfg.Runtime.Kill(ctx, a.ID)
	}
	if err != nil && ctx.Err() == nil {
		w.event(p, a.Container, corev1.EventTypeWarning, "FailedKillPod", fmt.Sprintf("error killing pod: %v", err))
		w.log.Warn("stop container", "container", a.Container, "err", err)
		sleep(ctx, retryStop)
	}
	w.refresh(ctx, a.ID)
	w.change(func() {
		delete(w.stops, a.Container)
		delete(w.view.Busy, a.Container)
	})
}

func (w *worker) preStop(ctx context.Context, p *corev1.Pod, c *corev1.Container, id string, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := w.hook(ctx, p, c, id, c.Lifecycle.PreStop); err != nil {
		w.event(p, c.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
		w.log.Info("preStop hook", "container", c.Name, "err", err)
	}
}

// sleep waits for d or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (w *worker) remove(ctx context.Context, a Action) {
	err := w.cfg.Runtime.Remove(ctx, a.ID)
	if err != nil {
		w.log.Warn("remove container", "container", a.Container, "id", a.ID, "err", err)
		sleep(ctx, retryStop)
	}
	w.change(func() {
		delete(w.view.Busy, a.Container)
		if err == nil {
			w.forget(a.Container, a.ID)
		}
	})
}
