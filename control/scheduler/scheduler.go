// Package scheduler gives every pod without a node the node that suits it best, or says in upstream's words why there is none.
//
// Events of single pods and nodes keep sums per node; a try walks over nodes only, never over pods. One goroutine decides; bindings are
// written beside it, on the assumption that they succeed.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// Name is the spec.schedulerName of the pods that this scheduler places, and the source of its events.
const Name = corev1.DefaultSchedulerName

const (
	// writers bounds the bindings and status writes in flight.
	writers = 64
	// A try stops when it has found so many nodes that fit, but not before a twentieth of all: the best of those is good enough.
	enoughNodes    = 100
	enoughFraction = 20
)

// Scheduler places pods.
type Scheduler struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	logger   *slog.Logger
	synced   []cache.DoneChecker
	pending  *pending
	slots    chan struct{} // one per write in flight
	writes   sync.WaitGroup

	mu      sync.Mutex
	cluster *cluster
	start   int // where the next walk over the nodes begins
	fitting []scored
}

// New registers a scheduler with the informers of Pods, Nodes and Namespaces. It must be called before they start.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, recorder record.EventRecorder, logger *slog.Logger) (*Scheduler, error) {
	core := factory.Core().V1()
	s := &Scheduler{
		client: client, recorder: recorder, logger: logger.With("component", "scheduler"),
		pending: newPending(),
		slots:   make(chan struct{}, writers),
		cluster: newCluster(namespaceLabels(core.Namespaces().Lister())),
	}
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		core.Pods().Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.podChanged(nil, obj.(*corev1.Pod)) },
			UpdateFunc: func(before, after any) { s.podChanged(before.(*corev1.Pod), after.(*corev1.Pod)) },
			DeleteFunc: s.podDeleted,
		},
		core.Nodes().Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.nodeChanged(obj.(*corev1.Node)) },
			UpdateFunc: func(_, obj any) { s.nodeChanged(obj.(*corev1.Node)) },
			DeleteFunc: s.nodeDeleted,
		},
		core.Namespaces().Informer(): cache.ResourceEventHandlerFuncs{UpdateFunc: s.namespaceChanged},
	} {
		events, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, err
		}
		s.synced = append(s.synced, events.HasSyncedChecker())
	}
	return s, nil
}

func namespaceLabels(lister corelisters.NamespaceLister) func(namespace string) map[string]string {
	return func(name string) map[string]string {
		namespace, err := lister.Get(name)
		if err != nil {
			return nil // not seen yet: its event makes the counts anew
		}
		return namespace.Labels
	}
}

// Run places pods until ctx ends and the last write is through.
func (s *Scheduler) Run(ctx context.Context) {
	// A scheduler that has not seen all bound pods would fill nodes twice.
	if !cache.WaitFor(ctx, "", s.synced...) {
		return
	}
	defer s.writes.Wait()
	timer := time.NewTimer(math.MaxInt64)
	defer timer.Stop()
	for ctx.Err() == nil {
		now := time.Now()
		e, wait := s.pending.next(now)
		if e != nil {
			s.try(ctx, e)
			continue
		}
		if wait == 0 {
			wait = math.MaxInt64
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-s.pending.wake:
		case <-timer.C:
			s.pending.flush(time.Now())
		}
	}
}

func (s *Scheduler) podChanged(before, pod *corev1.Pod) {
	if before != nil && before.UID != pod.UID {
		s.podDeleted(before)
		before = nil
	}
	switch {
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		s.podDeleted(pod) // what has ended uses nothing
	case pod.Spec.NodeName != "":
		s.podPlaced(before, pod)
	case pod.DeletionTimestamp != nil || pod.Spec.SchedulerName != Name || len(pod.Spec.SchedulingGates) > 0:
		s.pending.remove(pod.UID)
	case before == nil || worthAnotherTry(before, pod):
		s.mu.Lock()
		_, assumed := s.cluster.pods[pod.UID]
		s.mu.Unlock()
		if !assumed {
			s.pending.add(newDemand(pod), time.Now())
		}
	}
}

// worthAnotherTry tells a change of what is asked for from a write of the pod's status, the scheduler's own among them.
func worthAnotherTry(before, after *corev1.Pod) bool {
	return !maps.Equal(before.Labels, after.Labels) || !apiequality.Semantic.DeepEqual(&before.Spec, &after.Spec)
}

func (s *Scheduler) podPlaced(before, pod *corev1.Pod) {
	s.pending.remove(pod.UID)
	confirmed := before != nil && before.Spec.NodeName == pod.Spec.NodeName
	s.mu.Lock()
	if confirmed && maps.Equal(before.Labels, pod.Labels) && sameResources(before, pod) && s.cluster.refresh(pod) {
		s.mu.Unlock()
		return // a status write changes no sums
	}
	s.cluster.place(newDemand(pod), pod.Spec.NodeName)
	s.mu.Unlock()
	changed := podPlaced
	if confirmed {
		changed |= byResource // a resize may have made room
	}
	s.pending.event(changed, time.Now())
}

func (s *Scheduler) podDeleted(obj any) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	s.pending.remove(pod.UID)
	s.mu.Lock()
	removed := s.cluster.remove(pod.UID)
	s.mu.Unlock()
	if removed {
		s.pending.event(podGone, time.Now())
	}
}

func (s *Scheduler) nodeChanged(node *corev1.Node) {
	s.mu.Lock()
	changed := s.cluster.setNode(node)
	s.mu.Unlock()
	s.pending.event(changed, time.Now())
}

func (s *Scheduler) nodeDeleted(obj any) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	node, ok := obj.(*corev1.Node)
	if !ok {
		return
	}
	s.mu.Lock()
	s.cluster.removeNode(node.Name)
	s.mu.Unlock()
	s.pending.event(bySpread, time.Now()) // a domain less may even out the rest
}

func (s *Scheduler) namespaceChanged(before, after any) {
	if maps.Equal(before.(*corev1.Namespace).Labels, after.(*corev1.Namespace).Labels) {
		return
	}
	s.mu.Lock()
	s.cluster.peers.forget()
	s.mu.Unlock()
	s.pending.event(byPodAffinity, time.Now())
}

// try looks for a node and either assumes the pod there and starts the binding, or puts it back and starts to say why.
func (s *Scheduler) try(ctx context.Context, e *entry) {
	d := e.demand
	s.mu.Lock()
	if _, assumed := s.cluster.pods[d.pod.UID]; assumed {
		s.mu.Unlock()
		s.pending.done(e)
		return
	}
	state, failure := s.choose(d)
	if failure == nil {
		s.cluster.place(d, state.name)
	}
	s.mu.Unlock()
	if failure == nil {
		s.pending.done(e)
		node := state.name
		s.write(ctx, func() { s.bind(ctx, e, node) })
		return
	}
	by := failure.by
	if failure.nodes == 0 {
		by = anyFilter
	}
	s.pending.failed(e, by, time.Now())
	s.write(ctx, func() { s.explain(ctx, d.pod, failure.Error(), corev1.PodReasonUnschedulable) })
}

// choose returns the best of the nodes that fit, or the reasons of all. The caller holds mu.
func (s *Scheduler) choose(d *demand) (*nodeState, *unschedulable) {
	nodes := s.cluster.order
	failure := &unschedulable{nodes: len(nodes), reasons: map[string]int{}}
	rules := s.cluster.rules(d)
	enough := max(enoughNodes, len(nodes)/enoughFraction)
	s.fitting = s.fitting[:0]
	walked := 0
	for ; walked < len(nodes) && len(s.fitting) < enough; walked++ {
		state := nodes[(s.start+walked)%len(nodes)]
		if rejected := check(d, state, rules); rejected != nil {
			failure.note(rejected)
			continue
		}
		s.fitting = append(s.fitting, s.cluster.score(d, state, rules))
	}
	if len(s.fitting) == 0 {
		return nil, failure
	}
	s.start = (s.start + walked + 1) % len(nodes)
	return best(s.fitting), nil
}

// write runs a request beside the loop, which waits when too many are in flight.
func (s *Scheduler) write(ctx context.Context, request func()) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	s.writes.Go(func() {
		defer func() { <-s.slots }()
		request()
	})
}

func (s *Scheduler) bind(ctx context.Context, e *entry, node string) {
	pod := e.demand.pod
	err := s.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err == nil {
		s.recorder.Eventf(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %v/%v to %v", pod.Namespace, pod.Name, node)
		return
	}
	s.mu.Lock()
	assumed := s.cluster.pods[pod.UID].demand == e.demand // no event has told more meanwhile
	if assumed {
		s.cluster.remove(pod.UID)
	}
	s.mu.Unlock()
	if !assumed || ctx.Err() != nil || apierrors.IsNotFound(err) {
		return
	}
	s.pending.event(podGone, time.Now())
	s.logger.Warn("binding failed", "pod", pod.Namespace+"/"+pod.Name, "node", node, "error", err)
	s.pending.retry(e, time.Now())
	s.explain(ctx, pod, fmt.Sprintf("binding rejected: %v", err), corev1.PodReasonSchedulerError)
}

// explain tells the user why the pod has no node: as an event, and as the pod's condition PodScheduled.
func (s *Scheduler) explain(ctx context.Context, pod *corev1.Pod, message, reason string) {
	s.recorder.Event(pod, corev1.EventTypeWarning, "FailedScheduling", message)
	if err := s.setCondition(ctx, pod, message, reason); err != nil && !apierrors.IsNotFound(err) && !errors.Is(err, context.Canceled) {
		s.logger.Warn("condition not written", "pod", pod.Namespace+"/"+pod.Name, "error", err)
	}
}
