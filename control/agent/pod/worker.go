package pod

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/container"
)

// worker owns one pod: its goroutine alone decides. Everybody else only tells it what changed.
type worker struct {
	cfg      *Config
	log      *slog.Logger
	reporter *reporter
	wake     chan struct{}
	// settled is called once, when nothing of the pod is left on the node.
	settled func()

	mu sync.Mutex // guards what follows
	// pod is the newest object of the API.
	pod *corev1.Pod
	// view is what is observed; its Now is set for each step.
	view View
	// shared is what PrepareSandbox made.
	shared Prepared
	// probes ends the probes of a container, by container id.
	probes map[string]context.CancelFunc
	// stops are the stops in flight, by container name.
	stops map[string]*stopping
	// cancelStart ends everything that works towards starting containers.
	startCtx    context.Context
	cancelStart context.CancelFunc
	deleting    bool
	// retryWait is how long the last wait was after the sandbox could not be made.
	retryWait time.Duration
	// told is the end for which the back-off of a container was told; pulls are the back-offs of image pulls.
	told  map[string]time.Time
	pulls map[string]Backoff
}

// stopping is a stop in flight.
type stopping struct {
	deadline time.Time
	cancel   context.CancelFunc
}

func newWorker(ctx context.Context, cfg *Config, p *corev1.Pod, found []container.Status, settled func()) *worker {
	w := &worker{
		cfg: cfg, pod: p, settled: settled,
		log:    cfg.Logger.With("pod", p.Namespace+"/"+p.Name, "uid", string(p.UID)),
		wake:   make(chan struct{}, 1),
		probes: map[string]context.CancelFunc{},
		stops:  map[string]*stopping{},
		told:   map[string]time.Time{},
		pulls:  map[string]Backoff{},
		view: View{
			StartTime:    time.Now(),
			Containers:   map[string][]container.Status{},
			Waiting:      map[string]Waiting{},
			Health:       map[string]Health{},
			Backoff:      map[string]Backoff{},
			Busy:         map[string]Operation{},
			Terminations: map[string]string{},
		},
	}
	for _, ip := range cfg.HostIPs {
		w.view.HostIPs = append(w.view.HostIPs, ip.String())
	}
	if p.Status.StartTime != nil {
		w.view.StartTime = p.Status.StartTime.Time
	}
	w.startCtx, w.cancelStart = context.WithCancel(ctx)
	w.reporter = newReporter(ctx, cfg, p, w.log)
	for _, s := range found {
		w.observe(ctx, s)
	}
	return w
}

// nudge asks for a step. It never blocks.
func (w *worker) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// change tells the worker something and asks for a step.
func (w *worker) change(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	w.nudge()
}

// update tells the worker that the API's object changed.
func (w *worker) update(p *corev1.Pod) {
	w.reporter.saw(p)
	w.change(func() {
		old := w.pod
		w.pod = p
		if w.view.Sandbox.Ready && !(maps.Equal(old.Labels, p.Labels) && maps.Equal(old.Annotations, p.Annotations)) {
			go w.showMetadata(p)
		}
	})
}

// showMetadata writes the volumes anew, which may show what has changed of the pod's metadata.
func (w *worker) showMetadata(p *corev1.Pod) {
	if err := w.cfg.Volumes.Prepare(w.startCtx, p); err != nil && w.startCtx.Err() == nil {
		w.log.Warn("refresh volumes", "err", err)
	}
}

// gone tells the worker that the API has no such pod any more.
func (w *worker) gone() {
	w.reporter.close()
	w.change(func() { w.view.Gone = true })
}

// run steps until nothing of the pod is left or ctx ends. When ctx ends, containers are left as they are.
func (w *worker) run(ctx context.Context) {
	defer w.cancelStart()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, done := w.step(ctx)
		if done {
			w.settled()
			return
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(max(time.Until(next), time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// step plans once, starts the plan's actions and hands the status to the reporter.
func (w *worker) step(ctx context.Context) (next time.Time, done bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view.Now = time.Now()
	plan := Step(w.pod, &w.view)
	if ending(w.pod, &w.view) {
		w.cancelStart()
		w.endProbesWhereDead()
		w.hasten()
	}
	for _, a := range plan.Actions {
		w.begin(ctx, a)
	}
	if !w.view.Gone {
		w.reporter.report(plan.Status)
	}
	return plan.Wake, plan.Done
}

// begin marks an action as in flight and starts it. The caller holds w.mu.
func (w *worker) begin(ctx context.Context, a Action) {
	switch a.Type {
	case PrepareSandbox:
		w.view.Sandbox.Busy = true
		go w.prepare(w.startCtx, w.pod)
	case TearDownSandbox:
		w.view.Sandbox.Busy = true
		go w.tearDown(ctx, w.pod)
	case StartContainer:
		w.view.Busy[a.Container] = OpStart
		w.countRestart(a)
		go w.start(ctx, w.startCtx, w.pod, a)
	case StopContainer:
		w.view.Busy[a.Container] = OpStop
		w.beginStop(ctx, a)
	case RemoveContainer:
		w.view.Busy[a.Container] = OpStop
		go w.remove(ctx, a)
	case BackOff:
		w.tellBackOff(a)
	case DeletePod:
		if !w.deleting {
			w.deleting = true
			w.reporter.delete()
		}
	}
}

// countRestart lengthens the back-off when the start is a restart after an end.
func (w *worker) countRestart(a Action) {
	if s := w.view.newest(a.Container); s != nil && s.State == container.Exited {
		// An attempt that never came to a container does not count: pulls have a back-off of their own.
		if wait, failed := w.view.Waiting[a.Container]; !failed || wait.Reason == runError {
			w.view.Backoff[a.Container] = w.view.Backoff[a.Container].next(s.FinishedAt, w.view.Now)
		}
	}
}

// tellBackOff records the event once for each end of a container.
func (w *worker) tellBackOff(a Action) {
	s := w.view.newest(a.Container)
	if s == nil || w.told[a.Container].Equal(s.FinishedAt) {
		return
	}
	w.told[a.Container] = s.FinishedAt
	w.event(w.pod, a.Container, corev1.EventTypeWarning, "BackOff", a.Message)
}

// observe takes in a container's state; states never go back, so answers may arrive in any order.
func (w *worker) observe(ctx context.Context, s container.Status) {
	list := w.view.Containers[s.Name]
	i := slices.IndexFunc(list, func(o container.Status) bool { return o.ID == s.ID })
	switch {
	case i < 0:
		list = append(list, s)
		slices.SortFunc(list, func(a, b container.Status) int { return int(b.Attempt) - int(a.Attempt) })
	case rank(s.State) >= rank(list[i].State):
		list[i] = s
	default:
		return
	}
	w.view.Containers[s.Name] = list
	switch s.State {
	case container.Running:
		w.beginProbes(ctx, s)
	case container.Exited:
		w.endProbes(s.ID)
		if _, ok := w.view.Terminations[s.ID]; !ok {
			w.view.Terminations[s.ID] = terminationMessage(find(w.pod, s.Name), s)
		}
	}
}

func rank(s container.State) int {
	switch s {
	case container.Exited:
		return 2
	case container.Running:
		return 1
	}
	return 0
}

// refresh asks the runtime for a container's state.
func (w *worker) refresh(ctx context.Context, id string) {
	s, err := w.cfg.Runtime.Status(ctx, id)
	if err != nil {
		w.log.Debug("container status", "container", id, "err", err)
		return
	}
	w.change(func() { w.observe(ctx, s) })
}

// forget drops a container that the runtime has no more.
func (w *worker) forget(name, id string) {
	w.view.Containers[name] = slices.DeleteFunc(w.view.Containers[name], func(s container.Status) bool { return s.ID == id })
	if len(w.view.Containers[name]) == 0 {
		delete(w.view.Containers, name)
	}
	delete(w.view.Health, id)
	delete(w.view.Terminations, id)
}
