package pod

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/probe"
)

// beginProbes watches a running container that is not being started; one that is gets watched after its postStart hook. The
// caller holds w.mu.
func (w *worker) beginProbes(ctx context.Context, s container.Status) {
	if w.view.Busy[s.Name] == OpStart || w.probes[s.ID] != nil {
		return
	}
	c := find(w.pod, s.Name)
	if c == nil || w.view.Health[s.ID].Failed != "" {
		return
	}
	probeCtx, cancel := context.WithCancel(ctx)
	w.probes[s.ID] = cancel
	w.view.Health[s.ID] = w.firstHealth(c, s)
	if c.StartupProbe == nil && c.ReadinessProbe == nil && c.LivenessProbe == nil || isInit(w.pod, c.Name) && !restartable(c) {
		return
	}
	target := probe.Target{
		Container: c, StartedAt: s.StartedAt, Started: w.view.Health[s.ID].Started, Address: w.address,
		Exec: func(ctx context.Context, cmd []string, timeout time.Duration) ([]byte, int, error) {
			stdout, stderr, code, err := w.cfg.Runtime.ExecSync(ctx, s.ID, cmd, timeout)
			return append(stdout, stderr...), code, err
		},
	}
	go probe.Watch(probeCtx, target, func(v probe.Verdict) { w.judge(c, s.ID, v) })
}

// firstHealth is a container's health before its first probe. One that the API knows as ready stays ready over a restart of
// the agent: its Service must not lose it.
func (w *worker) firstHealth(c *corev1.Container, s container.Status) Health {
	old := reported(w.pod, c.Name)
	if old.ContainerID == containerID(s.ID) {
		return Health{Started: c.StartupProbe == nil || old.Started != nil && *old.Started, Ready: c.ReadinessProbe == nil || old.Ready}
	}
	return Health{Started: c.StartupProbe == nil, Ready: c.ReadinessProbe == nil}
}

// allowProbes watches a container whose start has finished. The caller holds w.mu.
func (w *worker) allowProbes(ctx context.Context, id string) {
	for _, list := range w.view.Containers {
		for _, s := range list {
			if s.ID == id && s.State == container.Running {
				w.beginProbes(ctx, s)
			}
		}
	}
}

// judge takes in what a probe says.
func (w *worker) judge(c *corev1.Container, id string, v probe.Verdict) {
	if v.Event != "" {
		w.mu.Lock()
		p := w.pod
		w.mu.Unlock()
		w.event(p, c.Name, corev1.EventTypeWarning, "Unhealthy", v.Event)
	}
	if !v.Changed {
		return
	}
	w.change(func() {
		h, ok := w.view.Health[id]
		if !ok {
			return
		}
		switch {
		case v.Kind == probe.Readiness:
			h.Ready = v.OK
		case v.Kind == probe.Startup && v.OK:
			h.Started = true
		case !v.OK:
			h.Failed, h.Grace = Cause(v.Kind), v.Grace
		}
		w.view.Health[id] = h
	})
}

// endProbes ends the probes of a container. The caller holds w.mu.
func (w *worker) endProbes(id string) {
	if cancel := w.probes[id]; cancel != nil {
		cancel()
		delete(w.probes, id)
	}
}

// endProbesWhereDead ends the probes of containers whose end a probe has already asked for. The caller holds w.mu.
func (w *worker) endProbesWhereDead() {
	for id := range w.probes {
		if h := w.view.Health[id]; h.Failed != "" {
			w.endProbes(id)
		}
	}
}
