// Package namespace empties namespaces that are being deleted and lets them go: pods first, since they may use the rest, then every other
// kind of object that the API server serves.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/control/controller/queue"
	"github.com/skep-io/skep/control/controller/served"
)

const (
	workers = 4
	// again is when a namespace is looked at that still has objects with finalizers: their kinds have no events here.
	again = time.Second
)

// Controller is the Namespace loop.
type Controller struct {
	client     kubernetes.Interface
	metadata   metadata.Interface
	discovery  discovery.DiscoveryInterface
	namespaces corelisters.NamespaceLister
	queue      *queue.Queue
	synced     []cache.DoneChecker
}

// New registers the loop with the informers of Namespaces and Pods. It must be called before they start.
func New(client kubernetes.Interface, metadata metadata.Interface, factory informers.SharedInformerFactory, logger *slog.Logger) (*Controller, error) {
	core := factory.Core().V1()
	c := &Controller{client: client, metadata: metadata, discovery: client.Discovery(), namespaces: core.Namespaces().Lister()}
	c.queue = queue.New("namespace", c.sync, logger)
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		core.Namespaces().Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc:    c.changed,
			UpdateFunc: func(_, obj any) { c.changed(obj) },
		},
		core.Pods().Informer(): cache.ResourceEventHandlerFuncs{DeleteFunc: c.podDeleted},
	} {
		events, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, err
		}
		c.synced = append(c.synced, events.HasSyncedChecker())
	}
	return c, nil
}

// Run handles namespaces until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.queue.Run(ctx, workers, c.synced...) }

func (c *Controller) changed(obj any) {
	if obj.(*corev1.Namespace).DeletionTimestamp != nil {
		c.queue.AddObject(obj)
	}
}

func (c *Controller) podDeleted(obj any) {
	pod, ok := queue.Object[*corev1.Pod](obj)
	if !ok {
		return
	}
	if namespace, err := c.namespaces.Get(pod.Namespace); err == nil && namespace.DeletionTimestamp != nil {
		c.queue.Add(pod.Namespace)
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	namespace, err := c.namespaces.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if namespace.DeletionTimestamp == nil || !slices.Contains(namespace.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil
	}
	found := c.empty(ctx, name)
	if err := c.writeStatus(ctx, namespace, found); err != nil {
		return err
	}
	if err := found.err(); err != nil {
		return err
	}
	if found.remains() {
		c.queue.AddAfter(name, again)
		return nil
	}
	return c.finalize(ctx, name)
}

// empty deletes what the namespace holds and reports what is left.
func (c *Controller) empty(ctx context.Context, namespace string) *findings {
	found := &findings{finalizers: map[string]int{}, objects: map[string]int{}}
	resources, err := served.Deletable(c.discovery)
	found.discovery = err
	// Pods first; the rest follows when they are gone.
	slices.SortStableFunc(resources, func(a, b served.Resource) int { return rank(&a) - rank(&b) })
	for i := range resources {
		resource := &resources[i]
		if !resource.Namespaced {
			continue
		}
		if rank(resource) > 0 && found.objects["pods."] > 0 {
			return found
		}
		if err := c.emptyOne(ctx, resource, namespace, found); err != nil {
			found.content = append(found.content, fmt.Errorf("delete %s in namespace %s: %w", resource.Resource, namespace, err))
		}
	}
	return found
}

func rank(resource *served.Resource) int {
	if resource.Group == "" && resource.Resource == "pods" {
		return 0
	}
	return 1
}

func (c *Controller) emptyOne(ctx context.Context, resource *served.Resource, namespace string, found *findings) error {
	client := c.metadata.Resource(resource.GroupVersionResource).Namespace(namespace)
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		return err
	}
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if resource.Can("deletecollection") {
		err = client.DeleteCollection(ctx, options, metav1.ListOptions{})
	} else {
		var failures []error
		for i := range list.Items {
			if err := client.Delete(ctx, list.Items[i].Name, options); !apierrors.IsNotFound(err) {
				failures = append(failures, err)
			}
		}
		err = errors.Join(failures...)
	}
	if err != nil {
		return err
	}
	if list, err = client.List(ctx, metav1.ListOptions{}); err != nil {
		return err
	}
	for i := range list.Items {
		found.objects[resource.Resource+"."+resource.Group]++
		for _, finalizer := range list.Items[i].Finalizers {
			found.finalizers[finalizer]++
		}
	}
	return nil
}

func (c *Controller) writeStatus(ctx context.Context, namespace *corev1.Namespace, found *findings) error {
	next := namespace.DeepCopy()
	next.Status.Phase = corev1.NamespaceTerminating
	next.Status.Conditions = found.conditions(namespace.Status.Conditions, metav1.Now())
	if next.Status.Phase == namespace.Status.Phase && slices.Equal(next.Status.Conditions, namespace.Status.Conditions) {
		return nil
	}
	// An empty namespace that goes at once needs no report.
	if next.Status.Phase == namespace.Status.Phase && len(namespace.Status.Conditions) == 0 && !found.remains() && found.err() == nil {
		return nil
	}
	_, err := c.client.CoreV1().Namespaces().UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// finalize takes the finalizer away on the newest version; then the API server deletes the namespace.
func (c *Controller) finalize(ctx context.Context, name string) error {
	namespace, err := c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	namespace.Spec.Finalizers = slices.DeleteFunc(namespace.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err = c.client.CoreV1().Namespaces().Finalize(ctx, namespace, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
