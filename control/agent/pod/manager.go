package pod

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/control/agent/container"
)

// Manager runs all pods of a node: it gives each pod its worker and passes on what happens.
type Manager struct {
	cfg Config

	mu      sync.Mutex // guards what follows
	workers map[types.UID]*worker
	// rejected remembers why pods were refused, so that a refusal is final.
	admitted map[types.UID]*corev1.Pod
}

// New returns a Manager; Run starts it.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, workers: map[types.UID]*worker{}, admitted: map[types.UID]*corev1.Pod{}}
}

// Run adopts what runs on the node and then follows pods, an informer of the node's pods that somebody else runs, until ctx
// ends. Containers go on running then.
func (m *Manager) Run(ctx context.Context, pods cache.SharedIndexInformer) error {
	// Subscribe before listing: what happens in between is then seen at least once.
	events := m.cfg.Runtime.Subscribe(ctx)
	found, err := m.cfg.Runtime.List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	byPod := map[types.UID][]container.Status{}
	for _, s := range found {
		byPod[s.PodUID] = append(byPod[s.PodUID], s)
	}
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced) {
		return ctx.Err()
	}
	m.adopt(ctx, pods.GetStore(), byPod)
	registration, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { m.changed(ctx, o) },
		UpdateFunc: func(_, o any) { m.changed(ctx, o) },
		DeleteFunc: func(o any) { m.deleted(o) },
	})
	if err != nil {
		return err
	}
	defer pods.RemoveEventHandler(registration)
	m.follow(ctx, events)
	return ctx.Err()
}

// adopt gives every pod of the API its worker with the containers that were found, and every other pod that has left
// containers behind a worker that takes them away.
func (m *Manager) adopt(ctx context.Context, store cache.Store, found map[types.UID][]container.Status) {
	for _, o := range store.List() {
		if p, ok := o.(*corev1.Pod); ok {
			m.add(ctx, p, found[p.UID])
			delete(found, p.UID)
		}
	}
	for uid, list := range found {
		m.orphan(ctx, uid, list)
	}
	m.mu.Lock()
	var uids []string
	for uid := range m.workers {
		uids = append(uids, string(uid))
	}
	m.mu.Unlock()
	if err := m.cfg.Sandboxes.Retain(ctx, uids); err != nil {
		m.cfg.Logger.Warn("remove stale sandboxes", "err", err)
	}
	if err := m.cfg.Volumes.Retain(ctx, uids); err != nil {
		m.cfg.Logger.Warn("remove stale volumes", "err", err)
	}
}

// orphan stops and removes what belongs to no pod. Only the names are known of such a pod; they make a spec that is enough to
// end it.
func (m *Manager) orphan(ctx context.Context, uid types.UID, list []container.Status) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Namespace: list[0].PodNamespace, Name: list[0].PodName}}
	names := map[string]bool{}
	for _, s := range list {
		names[s.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name})
	}
	m.mu.Lock()
	w := m.launch(ctx, p, list)
	m.mu.Unlock()
	w.gone()
}

// add starts a pod's worker, or refuses the pod.
func (m *Manager) add(ctx context.Context, p *corev1.Pod, found []container.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var refusal *Rejection
	fresh := len(found) == 0 && p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed &&
		p.Status.Phase != corev1.PodSucceeded && p.Status.StartTime == nil
	if fresh {
		refusal = m.cfg.Admit(p, slices.Collect(maps.Values(m.admitted)))
	}
	if refusal == nil {
		m.admitted[p.UID] = p
	}
	w := m.launch(ctx, p, found)
	if refusal != nil {
		w.event(p, "", corev1.EventTypeWarning, refusal.Reason, refusal.Message)
		w.change(func() { w.view.Rejected = refusal })
	}
}

// launch starts a worker. The caller holds m.mu.
func (m *Manager) launch(ctx context.Context, p *corev1.Pod, found []container.Status) *worker {
	w := newWorker(ctx, &m.cfg, p, found, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.workers, p.UID)
		delete(m.admitted, p.UID)
	})
	m.workers[p.UID] = w
	go w.run(ctx)
	return w
}

func (m *Manager) worker(uid types.UID) *worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.workers[uid]
}

func (m *Manager) changed(ctx context.Context, o any) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	if w := m.worker(p.UID); w != nil {
		w.update(p)
		if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
			m.mu.Lock()
			delete(m.admitted, p.UID)
			m.mu.Unlock()
		}
		return
	}
	m.add(ctx, p, nil)
}

func (m *Manager) deleted(o any) {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	p, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	if w := m.worker(p.UID); w != nil {
		w.gone()
	}
}

// follow passes the runtime's events on. A subscription that ends is renewed, and what was missed is listed.
func (m *Manager) follow(ctx context.Context, events <-chan container.Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			if !ok {
				if events = m.resubscribe(ctx); events == nil {
					return
				}
				continue
			}
			if w := m.worker(e.PodUID); w != nil {
				go w.refresh(ctx, e.ID)
			}
		}
	}
}

func (m *Manager) resubscribe(ctx context.Context) <-chan container.Event {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		events := m.cfg.Runtime.Subscribe(ctx)
		list, err := m.cfg.Runtime.List(ctx)
		if err != nil {
			m.cfg.Logger.Warn("list containers", "err", err)
			continue
		}
		for _, s := range list {
			if w := m.worker(s.PodUID); w != nil {
				w.change(func() { w.observe(ctx, s) })
			}
		}
		return events
	}
}

// Retry asks the worker of a pod to try at once what it waits to try again: something that the pod refers to has changed.
func (m *Manager) Retry(uid types.UID) {
	w := m.worker(uid)
	if w == nil {
		return
	}
	w.change(func() {
		w.view.Sandbox.RetryAt, w.retryWait = time.Time{}, 0
		for name, wait := range w.view.Waiting {
			if wait.Reason == "CreateContainerConfigError" {
				wait.RetryAt = time.Time{}
				w.view.Waiting[name] = wait
			}
		}
	})
}

// Pods returns the pods that the node has, in no order.
func (m *Manager) Pods() []*corev1.Pod {
	m.mu.Lock()
	workers := slices.Collect(maps.Values(m.workers))
	m.mu.Unlock()
	var out []*corev1.Pod
	for _, w := range workers {
		w.mu.Lock()
		out = append(out, w.pod)
		w.mu.Unlock()
	}
	return out
}

// Container returns the id of the newest attempt of a container, and of the attempt before it, empty for none.
func (m *Manager) Container(uid types.UID, name string) (now, before container.Status, ok bool) {
	w := m.worker(uid)
	if w == nil {
		return now, before, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.view.Containers[name]
	if len(list) > 0 {
		now, ok = list[0], true
	}
	if len(list) > 1 {
		before = list[1]
	}
	return now, before, ok
}

// NetNS returns the path of a pod's network namespace, and whether it has been made.
func (m *Manager) NetNS(uid types.UID) (string, bool) {
	w := m.worker(uid)
	if w == nil {
		return "", false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shared.NetNS, w.shared.NetNS != ""
}
