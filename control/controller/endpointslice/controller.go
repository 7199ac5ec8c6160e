// Package endpointslice keeps the EndpointSlices of every Service with a selector, by the reconciler of k8s.io/endpointslice. A change
// of a pod reaches its slices at once: nothing is batched.
package endpointslice

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"github.com/skep-io/skep/control/controller/membership"
	"github.com/skep-io/skep/control/controller/queue"
)

const (
	workers = 5
	// managedBy is upstream's name for this loop in the label endpointslice.kubernetes.io/managed-by.
	managedBy = "endpointslice-controller.k8s.io"
	// perSlice is how many endpoints a slice takes before another one is made.
	perSlice = 100
)

// Controller is the EndpointSlice loop; its keys are Services.
type Controller struct {
	services     corelisters.ServiceLister
	serviceIndex cache.Indexer
	pods         corelisters.PodLister
	slices       discoverylisters.EndpointSliceLister
	reconciler   *endpointslice.Reconciler
	tracker      *endpointsliceutil.EndpointSliceTracker
	triggers     *endpointsliceutil.TriggerTimeTracker
	recorder     record.EventRecorder
	queue        *queue.Queue
	synced       []cache.DoneChecker
	// behind are the Services whose slices the cache does not show yet as they were last written; the slices' events wake them.
	behind sync.Map
}

// New registers the loop with the informers of Services, Pods, Nodes and EndpointSlices. It must be called before they start.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, recorder record.EventRecorder, logger *slog.Logger) (*Controller, error) {
	core, discovery := factory.Core().V1(), factory.Discovery().V1().EndpointSlices()
	c := &Controller{
		services:     core.Services().Lister(),
		serviceIndex: core.Services().Informer().GetIndexer(),
		pods:         core.Pods().Lister(),
		slices:       discovery.Lister(),
		tracker:      endpointsliceutil.NewEndpointSliceTracker(),
		triggers:     endpointsliceutil.NewTriggerTimeTracker(),
		recorder:     recorder,
	}
	c.reconciler = endpointslice.NewReconciler(client, core.Nodes().Lister(), perSlice, c.tracker, nil, recorder, managedBy,
		endpointslice.WithPreferSameTrafficDistributionEnabled(true))
	c.queue = queue.New("endpointslice", c.sync, logger)
	if err := membership.AddIndex(core.Services().Informer()); err != nil {
		return nil, err
	}
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		core.Services().Informer(): c.queue.Handler(),
		core.Pods().Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc:    func(pod any) { c.podChanged(nil, pod) },
			UpdateFunc: c.podChanged,
			DeleteFunc: func(pod any) { c.podChanged(pod, nil) },
		},
		core.Nodes().Informer(): cache.ResourceEventHandlerFuncs{},
		discovery.Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc: func(slice any) { c.sliceChanged(nil, slice.(*discoveryv1.EndpointSlice)) },
			UpdateFunc: func(before, after any) {
				c.sliceChanged(before.(*discoveryv1.EndpointSlice), after.(*discoveryv1.EndpointSlice))
			},
			DeleteFunc: c.sliceDeleted,
		},
	} {
		events, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, err
		}
		c.synced = append(c.synced, events.HasSyncedChecker())
	}
	return c, nil
}

// Run handles Services until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.queue.Run(ctx, workers, c.synced...) }

func (c *Controller) podChanged(before, after any) {
	keys, err := membership.ForChange(c.serviceIndex, before, after)
	if err != nil {
		return // only a missing index can fail, and New has made it
	}
	for _, key := range keys {
		c.queue.Add(key)
	}
}

// sliceChanged queues the Service of a slice that somebody else wrote, and one that waited for its own write to show up.
func (c *Controller) sliceChanged(before, after *discoveryv1.EndpointSlice) {
	if before != nil && before.Labels[discoveryv1.LabelServiceName] != after.Labels[discoveryv1.LabelServiceName] {
		c.queueOwner(before)
		c.queueOwner(after)
		return
	}
	handedOver := before != nil && c.reconciler.ManagedByChanged(before, after)
	foreign := c.reconciler.ManagedByController(after) && c.tracker.ShouldSync(after)
	if handedOver || foreign || c.wasBehind(after) {
		c.queueOwner(after)
	}
}

func (c *Controller) sliceDeleted(obj any) {
	slice, ok := queue.Object[*discoveryv1.EndpointSlice](obj)
	if !ok || !c.reconciler.ManagedByController(slice) {
		return
	}
	unexpected := c.tracker.Has(slice) && !c.tracker.HandleDeletion(slice)
	if unexpected || c.wasBehind(slice) {
		c.queueOwner(slice)
	}
}

func (c *Controller) wasBehind(slice *discoveryv1.EndpointSlice) bool {
	key, err := endpointslice.ServiceControllerKey(slice)
	if err != nil {
		return false
	}
	_, was := c.behind.LoadAndDelete(key)
	return was
}

func (c *Controller) queueOwner(slice *discoveryv1.EndpointSlice) {
	if key, err := endpointslice.ServiceControllerKey(slice); err == nil {
		c.queue.Add(key)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(namespace, name)
		c.reconciler.DeleteService(namespace, name)
		c.tracker.DeleteService(namespace, name)
		c.behind.Delete(key)
		return nil // the garbage collector takes the slices
	}
	if err != nil {
		return err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil {
		return nil // others make the slices of these, if any
	}
	pods, err := c.pods.Pods(namespace).List(labels.SelectorFromValidatedSet(service.Spec.Selector))
	if err != nil {
		return err
	}
	// Noted before the look, so that an event that comes in between finds it.
	c.behind.Store(key, nil)
	existing, err := c.existing(service)
	if err != nil {
		return err
	}
	if c.tracker.StaleSlices(service, existing) {
		return nil
	}
	c.behind.Delete(key)
	triggered := c.triggers.ComputeEndpointLastChangeTriggerTime(namespace, service, pods)
	err = c.reconciler.Reconcile(klog.FromContext(ctx), service, pods, existing, triggered)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	if err != nil && !apierrors.IsConflict(err) {
		c.recorder.Eventf(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s/%s: %v", namespace, name, err)
	}
	return err
}

// existing returns the Service's slices that this loop manages and that are not on their way out.
func (c *Controller) existing(service *corev1.Service) ([]*discoveryv1.EndpointSlice, error) {
	found, err := c.slices.EndpointSlices(service.Namespace).List(labels.SelectorFromValidatedSet(labels.Set{
		discoveryv1.LabelServiceName: service.Name,
		discoveryv1.LabelManagedBy:   managedBy,
	}))
	return slices.DeleteFunc(found, func(slice *discoveryv1.EndpointSlice) bool { return slice.DeletionTimestamp != nil }), err
}
