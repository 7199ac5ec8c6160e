// Package replicaset keeps as many pods as a ReplicaSet asks for: it creates what is missing, deletes what is too much in the
// order that hurts least, adopts orphans that match, and writes the set's status.
package replicaset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/control/controller/expect"
	"github.com/skep-io/skep/control/controller/owner"
	"github.com/skep-io/skep/control/controller/podstate"
	"github.com/skep-io/skep/control/controller/queue"
)

// workers is how many sets are handled at a time.
const workers = 5

var kind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

// Controller is the ReplicaSet loop.
type Controller struct {
	client   kubernetes.Interface
	sets     appslisters.ReplicaSetLister
	setIndex cache.Indexer
	podIndex cache.Indexer
	recorder record.EventRecorder
	expected expect.Expectations
	queue    *queue.Queue
	synced   []cache.DoneChecker
}

// New registers the loop with the informers of ReplicaSets and Pods. It must be called before they start.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, recorder record.EventRecorder, logger *slog.Logger) (*Controller, error) {
	sets, pods := factory.Apps().V1().ReplicaSets(), factory.Core().V1().Pods()
	c := &Controller{
		client:   client,
		sets:     sets.Lister(),
		setIndex: sets.Informer().GetIndexer(),
		podIndex: pods.Informer().GetIndexer(),
		recorder: recorder,
	}
	c.queue = queue.New("replicaset", c.sync, logger)
	if err := errors.Join(owner.AddIndex(pods.Informer()), owner.AddIndex(sets.Informer())); err != nil {
		return nil, err
	}
	setEvents, err := sets.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    c.queue.AddObject,
		UpdateFunc: c.setUpdated,
		DeleteFunc: c.setDeleted,
	})
	if err != nil {
		return nil, err
	}
	podEvents, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    c.podAdded,
		UpdateFunc: c.podUpdated,
		DeleteFunc: c.podDeleted,
	})
	if err != nil {
		return nil, err
	}
	c.synced = []cache.DoneChecker{setEvents.HasSyncedChecker(), podEvents.HasSyncedChecker()}
	return c, nil
}

// Run handles ReplicaSets until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.queue.Run(ctx, workers, c.synced...) }

func (c *Controller) setUpdated(old, new any) {
	before, after := old.(*appsv1.ReplicaSet), new.(*appsv1.ReplicaSet)
	if before.UID != after.UID {
		c.setDeleted(before)
	}
	c.queue.AddObject(after)
}

func (c *Controller) setDeleted(obj any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
		c.expected.Forget(key)
		c.queue.Add(key)
	}
}

func (c *Controller) podAdded(obj any) {
	pod := obj.(*corev1.Pod)
	if pod.DeletionTimestamp != nil {
		// On a restart a pod may show up that is already on its way out.
		c.podDeleted(pod)
		return
	}
	if key := c.controllerKey(pod); key != "" {
		c.expected.Created(key, 1)
		c.queue.Add(key)
		return
	}
	if metav1.GetControllerOfNoCopy(pod) == nil {
		c.addMatching(pod)
	}
}

func (c *Controller) podUpdated(old, new any) {
	before, after := old.(*corev1.Pod), new.(*corev1.Pod)
	if before.ResourceVersion == after.ResourceVersion {
		return
	}
	if after.DeletionTimestamp != nil {
		// A graceful deletion is an update first. The set replaces the pod now, not when its grace period is over.
		c.podDeleted(after)
		return
	}
	oldKey, newKey := c.controllerKey(before), c.controllerKey(after)
	if oldKey != "" && oldKey != newKey {
		c.queue.Add(oldKey)
	}
	if newKey != "" {
		c.queue.Add(newKey)
		return
	}
	changed := oldKey != "" || !apiequality.Semantic.DeepEqual(before.Labels, after.Labels)
	if changed && metav1.GetControllerOfNoCopy(after) == nil {
		c.addMatching(after)
	}
}

func (c *Controller) podDeleted(obj any) {
	pod, ok := queue.Object[*corev1.Pod](obj)
	if !ok {
		return
	}
	if key := c.controllerKey(pod); key != "" {
		c.expected.Deleted(key, pod.UID)
		c.queue.Add(key)
	}
}

// controllerKey is the key of the ReplicaSet that controls the pod, or "".
func (c *Controller) controllerKey(pod *corev1.Pod) string {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != kind.Kind {
		return ""
	}
	return pod.Namespace + "/" + ref.Name
}

// addMatching queues the sets that could adopt an orphan.
func (c *Controller) addMatching(pod *corev1.Pod) {
	sets, err := c.sets.GetPodReplicaSets(pod)
	if err != nil {
		return // no set matches
	}
	for _, rs := range sets {
		c.queue.AddObject(rs)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	rs, err := c.sets.ReplicaSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expected.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	caughtUp := c.expected.Satisfied(key)
	owned, err := c.claim(ctx, rs)
	if err != nil {
		return err
	}
	var active []*corev1.Pod
	for _, pod := range owned {
		if podstate.Active(pod) {
			active = append(active, pod)
		}
	}
	diff := len(active) - int(*rs.Spec.Replicas)
	var failure error
	if caughtUp && rs.DeletionTimestamp == nil {
		failure = c.apply(ctx, key, rs, plan(*rs.Spec.Replicas, active, c.related(rs, active, diff), time.Now()))
	}
	return errors.Join(failure, c.writeStatus(ctx, key, rs, owned, diff, failure))
}

// claim returns the pods of the set. Only pods without a controller and the set's own are looked at.
func (c *Controller) claim(ctx context.Context, rs *appsv1.ReplicaSet) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector of ReplicaSet %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	candidates, err := owner.Candidates[*corev1.Pod](c.podIndex, rs)
	if err != nil {
		return nil, err
	}
	claimer := owner.Claimer[*corev1.Pod]{
		Controller: rs, Kind: kind, Selector: selector,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.client.AppsV1().ReplicaSets(rs.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, pod *corev1.Pod, patch []byte) error {
			_, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
	return claimer.Claim(ctx, candidates)
}

// related returns the active pods of all sets with the same controller; only a scale-down asks.
func (c *Controller) related(rs *appsv1.ReplicaSet, active []*corev1.Pod, diff int) []*corev1.Pod {
	ref := metav1.GetControllerOfNoCopy(rs)
	if diff <= 0 || ref == nil {
		return active
	}
	siblings, err := owner.Controlled[*appsv1.ReplicaSet](c.setIndex, ref.UID)
	if err != nil {
		return active
	}
	var pods []*corev1.Pod
	for _, sibling := range siblings {
		owned, err := owner.Controlled[*corev1.Pod](c.podIndex, sibling.UID)
		if err != nil {
			return active
		}
		for _, pod := range owned {
			if podstate.Active(pod) {
				pods = append(pods, pod)
			}
		}
	}
	return pods
}

func (c *Controller) apply(ctx context.Context, key string, rs *appsv1.ReplicaSet, todo change) error {
	switch {
	case todo.create > 0:
		c.expected.Expect(key, todo.create, nil)
		return c.create(ctx, key, rs, todo.create)
	case len(todo.remove) > 0:
		uids := make([]types.UID, len(todo.remove))
		for i, pod := range todo.remove {
			uids[i] = pod.UID
		}
		c.expected.Expect(key, 0, uids)
		return c.remove(ctx, key, rs, todo.remove)
	}
	return nil
}

// create makes pods in batches of 1, 2, 4, …: when the API server refuses the first (quota, admission), the rest is not even sent.
func (c *Controller) create(ctx context.Context, key string, rs *appsv1.ReplicaSet, count int) error {
	for batch, left := 1, count; left > 0; batch *= 2 {
		size := min(batch, left)
		failures := parallel(size, func(int) error { return c.createOne(ctx, rs) })
		left -= size
		if len(failures) > 0 {
			c.expected.Created(key, len(failures)+left)
			if apierrors.HasStatusCause(failures[0], corev1.NamespaceTerminatingCause) {
				return nil // the namespace goes away with all that is in it: there is nothing to retry
			}
			return failures[0]
		}
	}
	return nil
}

func (c *Controller) createOne(ctx context.Context, rs *appsv1.ReplicaSet) error {
	pod, err := c.client.CoreV1().Pods(rs.Namespace).Create(ctx, newPod(rs), metav1.CreateOptions{})
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.recorder.Eventf(rs, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	c.recorder.Eventf(rs, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", pod.Name)
	return nil
}

func (c *Controller) remove(ctx context.Context, key string, rs *appsv1.ReplicaSet, pods []*corev1.Pod) error {
	failures := parallel(len(pods), func(i int) error {
		pod := pods[i]
		err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		if err == nil {
			c.recorder.Eventf(rs, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
			return nil
		}
		c.expected.Deleted(key, pod.UID)
		if apierrors.IsNotFound(err) {
			return nil
		}
		c.recorder.Eventf(rs, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return err
	})
	if len(failures) > 0 {
		return failures[0]
	}
	return nil
}

// parallel calls do for 0 … count-1 at the same time and returns the errors.
func parallel(count int, do func(i int) error) []error {
	var mu sync.Mutex
	var failures []error
	var group sync.WaitGroup
	for i := range count {
		group.Go(func() {
			if err := do(i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, err)
			}
		})
	}
	group.Wait()
	return failures
}

func (c *Controller) writeStatus(ctx context.Context, key string, rs *appsv1.ReplicaSet, owned []*corev1.Pod, diff int, failure error) error {
	next, wait := status(rs, owned, diff, failure, metav1.Now())
	if wait > 0 {
		c.queue.AddAfter(key, wait+time.Millisecond)
	}
	if apiequality.Semantic.DeepEqual(rs.Status, next) {
		return nil
	}
	updated := *rs
	updated.Status = next
	_, err := c.client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, &updated, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // the event of whoever changed or deleted it brings the key back
	}
	return err
}
