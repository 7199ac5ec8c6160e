// Package deployment moves a Deployment's pods to its current template: it makes a ReplicaSet per template, shifts replicas between
// them within the limits of the strategy, keeps their history for rollbacks, and writes the Deployment's status.
package deployment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/control/controller/owner"
	"github.com/skep-io/skep/control/controller/podstate"
	"github.com/skep-io/skep/control/controller/queue"
)

// workers is how many Deployments are handled at a time.
const workers = 5

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// Controller is the Deployment loop.
type Controller struct {
	client      kubernetes.Interface
	deployments appslisters.DeploymentLister
	sets        appslisters.ReplicaSetLister
	setIndex    cache.Indexer
	podIndex    cache.Indexer
	recorder    record.EventRecorder
	queue       *queue.Queue
	synced      []cache.DoneChecker
}

// New registers the loop with the informers of Deployments, ReplicaSets and Pods. It must be called before they start.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, recorder record.EventRecorder, logger *slog.Logger) (*Controller, error) {
	deployments, sets, pods := factory.Apps().V1().Deployments(), factory.Apps().V1().ReplicaSets(), factory.Core().V1().Pods()
	c := &Controller{
		client:      client,
		deployments: deployments.Lister(),
		sets:        sets.Lister(),
		setIndex:    sets.Informer().GetIndexer(),
		podIndex:    pods.Informer().GetIndexer(),
		recorder:    recorder,
	}
	c.queue = queue.New("deployment", c.sync, logger)
	if err := errors.Join(owner.AddIndex(sets.Informer()), owner.AddIndex(pods.Informer())); err != nil {
		return nil, err
	}
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		deployments.Informer(): c.queue.Handler(),
		sets.Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc:    c.setChanged,
			UpdateFunc: func(before, after any) { c.setUpdated(before.(*appsv1.ReplicaSet), after.(*appsv1.ReplicaSet)) },
			DeleteFunc: c.setChanged,
		},
		pods.Informer(): cache.ResourceEventHandlerFuncs{DeleteFunc: c.podDeleted},
	} {
		events, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, err
		}
		c.synced = append(c.synced, events.HasSyncedChecker())
	}
	return c, nil
}

// Run handles Deployments until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.queue.Run(ctx, workers, c.synced...) }

func (c *Controller) setUpdated(before, after *appsv1.ReplicaSet) {
	if before.ResourceVersion == after.ResourceVersion {
		return
	}
	if key := controllerKey(before); key != "" && key != controllerKey(after) {
		c.queue.Add(key)
	}
	c.setChanged(after)
}

func (c *Controller) setChanged(obj any) {
	rs, ok := queue.Object[*appsv1.ReplicaSet](obj)
	if !ok {
		return
	}
	if key := controllerKey(rs); key != "" {
		c.queue.Add(key)
		return
	}
	if metav1.GetControllerOfNoCopy(rs) != nil || rs.DeletionTimestamp != nil {
		return
	}
	// A cache that lists cannot fail.
	candidates, _ := c.deployments.Deployments(rs.Namespace).List(labels.Everything())
	for _, d := range candidates {
		selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(rs.Labels)) {
			c.queue.AddObject(d)
		}
	}
}

// podDeleted wakes a Deployment that waits for the last old pod (Recreate).
func (c *Controller) podDeleted(obj any) {
	pod, ok := queue.Object[*corev1.Pod](obj)
	if !ok {
		return
	}
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	rs, err := c.sets.ReplicaSets(pod.Namespace).Get(ref.Name)
	if err != nil {
		return // a deleted set has woken its Deployment itself
	}
	key := controllerKey(rs)
	if key == "" {
		return
	}
	d, err := c.deployments.Deployments(pod.Namespace).Get(metav1.GetControllerOfNoCopy(rs).Name)
	if err == nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		c.queue.Add(key)
	}
}

// controllerKey is the key of the Deployment that controls the set, or "".
func controllerKey(rs *appsv1.ReplicaSet) string {
	ref := metav1.GetControllerOfNoCopy(rs)
	if ref == nil || ref.Kind != kind.Kind {
		return ""
	}
	return rs.Namespace + "/" + ref.Name
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	stored, err := c.deployments.Deployments(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	d := stored.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector of Deployment %s: %w", key, err)
	}
	if selector.Empty() {
		c.recorder.Eventf(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		d.Status.ObservedGeneration = d.Generation
		return c.writeStatus(ctx, stored, d.Status)
	}
	sets, err := c.claim(ctx, d, selector)
	if err != nil {
		return err
	}
	r := &rollout{Controller: c, d: d, now: metav1.Now()}
	r.current, r.old = split(d, sets)
	status, err := r.step(ctx)
	if status == nil {
		return err
	}
	if wait := untilDeadline(d, status, time.Now()); wait > 0 {
		c.queue.AddAfter(key, wait)
	}
	stored, failure := c.writeRevision(ctx, stored, r.revision)
	if failure != nil {
		return errors.Join(err, failure)
	}
	return errors.Join(err, c.writeStatus(ctx, stored, *status))
}

func (c *Controller) claim(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	candidates, err := owner.Candidates[*appsv1.ReplicaSet](c.setIndex, d)
	if err != nil {
		return nil, err
	}
	claimer := owner.Claimer[*appsv1.ReplicaSet]{
		Controller: d, Kind: kind, Selector: selector,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, rs *appsv1.ReplicaSet, patch []byte) error {
			_, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
	return claimer.Claim(ctx, candidates)
}

// oldPodsRunning says whether a pod of a former template may still run. Recreate waits for it.
func (c *Controller) oldPodsRunning(old []*appsv1.ReplicaSet) (bool, error) {
	for _, rs := range old {
		if rs.Status.Replicas > 0 {
			return true, nil
		}
		pods, err := owner.Controlled[*corev1.Pod](c.podIndex, rs.UID)
		if err != nil {
			return false, err
		}
		for _, pod := range pods {
			if !podstate.Terminal(pod) {
				return true, nil
			}
		}
	}
	return false, nil
}

// writeRevision is a patch of its own: the status subresource takes no annotations. 0 means that there is nothing to write. It returns
// the Deployment as it is stored then.
func (c *Controller) writeRevision(ctx context.Context, stored *appsv1.Deployment, number int64) (*appsv1.Deployment, error) {
	if number == 0 || revision(stored) == number {
		return stored, nil
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"annotations":{%q:"%d"}}}`, stored.UID, revisionAnnotation, number)
	return c.client.AppsV1().Deployments(stored.Namespace).Patch(ctx, stored.Name, types.MergePatchType, patch, metav1.PatchOptions{})
}

// writeStatus replaces the status if it differs. Only this loop writes it, so a conflict comes from a change of the spec, whose event
// brings the key back.
func (c *Controller) writeStatus(ctx context.Context, stored *appsv1.Deployment, status appsv1.DeploymentStatus) error {
	if apiequality.Semantic.DeepEqual(stored.Status, status) {
		return nil
	}
	updated := *stored
	updated.Status = status
	_, err := c.client.AppsV1().Deployments(stored.Namespace).UpdateStatus(ctx, &updated, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
