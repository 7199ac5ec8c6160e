// Package endpoints keeps the Endpoints object of every Service with a selector, for clients that do not read EndpointSlices yet. The
// data path does not wait for it.
package endpoints

import (
	"context"
	"log/slog"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/control/controller/membership"
	"github.com/skep-io/skep/control/controller/queue"
)

//lint:file-ignore SA1019 Endpoints are deprecated and served all the same: that is what this is about.

const (
	workers = 5
	// The label by which upstream marks the objects of this loop, so that they can be told from those that people write.
	managedByLabel = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
)

// Controller is the Endpoints loop; its keys are Services.
type Controller struct {
	client       kubernetes.Interface
	services     corelisters.ServiceLister
	serviceIndex cache.Indexer
	pods         corelisters.PodLister
	endpoints    corelisters.EndpointsLister
	queue        *queue.Queue
	synced       []cache.DoneChecker
}

// New registers the loop with the informers of Services, Pods and Endpoints. It must be called before they start.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, logger *slog.Logger) (*Controller, error) {
	core := factory.Core().V1()
	c := &Controller{
		client:       client,
		services:     core.Services().Lister(),
		serviceIndex: core.Services().Informer().GetIndexer(),
		pods:         core.Pods().Lister(),
		endpoints:    core.Endpoints().Lister(),
	}
	c.queue = queue.New("endpoints", c.sync, logger)
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
		// Those of a Service that went while nobody looked have to go, too; and a deleted one comes back.
		core.Endpoints().Informer(): cache.ResourceEventHandlerFuncs{AddFunc: c.queue.AddObject, DeleteFunc: c.queue.AddObject},
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

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return c.remove(ctx, namespace, name)
	}
	if err != nil {
		return err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil {
		return nil // people write the Endpoints of these
	}
	pods, err := c.pods.Pods(namespace).List(labels.SelectorFromValidatedSet(service.Spec.Selector))
	if err != nil {
		return err
	}
	err = c.write(ctx, service, subsets(service, pods))
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

// remove deletes what this loop made for a Service that is gone. Endpoints that people wrote stay.
func (c *Controller) remove(ctx context.Context, namespace, name string) error {
	stored, err := c.endpoints.Endpoints(namespace).Get(name)
	if err != nil || stored.Labels[managedByLabel] != managedBy {
		return nil
	}
	err = c.client.CoreV1().Endpoints(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(stored.UID))})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *Controller) write(ctx context.Context, service *corev1.Service, wanted []corev1.EndpointSubset) error {
	marks := maps.Clone(service.Labels)
	if marks == nil {
		marks = map[string]string{}
	}
	marks[managedByLabel] = managedBy
	delete(marks, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		marks[corev1.IsHeadlessService] = ""
	}
	stored, err := c.endpoints.Endpoints(service.Namespace).Get(service.Name)
	if apierrors.IsNotFound(err) {
		_, err = c.client.CoreV1().Endpoints(service.Namespace).Create(ctx, &corev1.Endpoints{
			ObjectMeta: metav1.ObjectMeta{Name: service.Name, Namespace: service.Namespace, Labels: marks},
			Subsets:    wanted,
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	if apiequality.Semantic.DeepEqual(stored.Subsets, wanted) && maps.Equal(stored.Labels, marks) {
		return nil
	}
	updated := *stored
	updated.Subsets, updated.Labels = wanted, marks
	_, err = c.client.CoreV1().Endpoints(service.Namespace).Update(ctx, &updated, metav1.UpdateOptions{})
	return err
}
