// Package serviceaccount gives every namespace what a pod in it needs to speak with the API server: the ServiceAccount "default" and the
// ConfigMap with the cluster's CA certificate.
package serviceaccount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/informers/internalinterfaces"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/control/controller/queue"
)

const (
	workers     = 4
	accountName = "default"
	// RootCAName is the ConfigMap that the projected volumes of pods read; its key is "ca.crt".
	RootCAName = "kube-root-ca.crt"
	rootCAKey  = "ca.crt"
)

// Controller is the loop over namespaces.
type Controller struct {
	client     kubernetes.Interface
	rootCA     map[string]string
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
	maps       corelisters.ConfigMapLister
	own        []cache.SharedIndexInformer
	queue      *queue.Queue
	synced     []cache.DoneChecker
}

// New registers the loop with the informer of Namespaces, before it starts; the loop has small informers of its own besides.
// rootCA is the certificate of the cluster's CA in PEM.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, rootCA []byte, logger *slog.Logger) (*Controller, error) {
	namespaces := factory.Core().V1().Namespaces()
	// Only the objects of these two names are kept in memory, not every ConfigMap of the cluster.
	accounts := coreinformers.NewFilteredServiceAccountInformer(client, metav1.NamespaceAll, 0, byNamespace(), named(accountName))
	configMaps := coreinformers.NewFilteredConfigMapInformer(client, metav1.NamespaceAll, 0, byNamespace(), named(RootCAName))
	c := &Controller{
		client:     client,
		rootCA:     map[string]string{rootCAKey: string(rootCA)},
		namespaces: namespaces.Lister(),
		accounts:   corelisters.NewServiceAccountLister(accounts.GetIndexer()),
		maps:       corelisters.NewConfigMapLister(configMaps.GetIndexer()),
		own:        []cache.SharedIndexInformer{accounts, configMaps},
	}
	c.queue = queue.New("serviceaccount", c.sync, logger)
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		namespaces.Informer(): c.queue.Handler(),
		accounts:              cache.ResourceEventHandlerFuncs{DeleteFunc: c.childChanged},
		configMaps: cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(_, obj any) { c.childChanged(obj) },
			DeleteFunc: c.childChanged,
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

func named(name string) internalinterfaces.TweakListOptionsFunc {
	return func(options *metav1.ListOptions) {
		options.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	}
}

func byNamespace() cache.Indexers {
	return cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
}

// Run handles namespaces until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	var group sync.WaitGroup
	for _, informer := range c.own {
		group.Go(func() { informer.RunWithContext(ctx) })
	}
	c.queue.Run(ctx, workers, c.synced...)
	group.Wait()
}

func (c *Controller) childChanged(obj any) {
	child, ok := queue.Object[metav1.Object](obj)
	if ok && (child.GetName() == accountName || child.GetName() == RootCAName) {
		c.queue.Add(child.GetNamespace())
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
	if namespace.DeletionTimestamp != nil || namespace.Status.Phase == corev1.NamespaceTerminating {
		return nil
	}
	err = errors.Join(c.ensureAccount(ctx, name), c.ensureRootCA(ctx, name))
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

func (c *Controller) ensureAccount(ctx context.Context, namespace string) error {
	if _, err := c.accounts.ServiceAccounts(namespace).Get(accountName); !apierrors.IsNotFound(err) {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: accountName, Namespace: namespace}}
	_, err := c.client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create ServiceAccount %s/%s: %w", namespace, accountName, err)
	}
	return nil
}

func (c *Controller) ensureRootCA(ctx context.Context, namespace string) error {
	stored, err := c.maps.ConfigMaps(namespace).Get(RootCAName)
	switch {
	case apierrors.IsNotFound(err):
		wanted := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: RootCAName, Namespace: namespace, Annotations: map[string]string{
				"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
					"No other usage is guaranteed across distributions of Kubernetes clusters.",
			}},
			Data: c.rootCA,
		}
		_, err = c.client.CoreV1().ConfigMaps(namespace).Create(ctx, wanted, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
	case err == nil && !maps.Equal(stored.Data, c.rootCA):
		updated := *stored
		updated.Data = c.rootCA
		_, err = c.client.CoreV1().ConfigMaps(namespace).Update(ctx, &updated, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write ConfigMap %s/%s: %w", namespace, RootCAName, err)
	}
	return nil
}
