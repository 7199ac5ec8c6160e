// Package object keeps the Secrets and ConfigMaps that the node's pods refer to: one watch for each object, by its name, for as
// long as a pod refers to it. A node may read no others.
package object

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// key names one object; resource is "secrets" or "configmaps".
type key struct{ resource, namespace, name string }

// watcher follows one object.
type watcher struct {
	store  cache.Store
	synced cache.InformerSynced
	cancel context.CancelFunc
	pods   map[string]bool
}

// Store follows objects for pods. It is safe for concurrent use.
type Store struct {
	ctx    context.Context
	client kubernetes.Interface
	// changed is told the UID of each pod whose objects changed.
	changed func(uid string)

	mu       sync.Mutex
	watchers map[key]*watcher
}

// New returns a Store whose watches end with ctx.
func New(ctx context.Context, client kubernetes.Interface, changed func(uid string)) *Store {
	return &Store{ctx: ctx, client: client, changed: changed, watchers: map[key]*watcher{}}
}

// ConfigMap returns a ConfigMap and follows it for the pod uid until Release. An object that does not exist is an API error
// NotFound, and is followed too.
func (s *Store) ConfigMap(ctx context.Context, uid, namespace, name string) (*corev1.ConfigMap, error) {
	o, err := s.get(ctx, uid, key{"configmaps", namespace, name})
	if err != nil {
		return nil, err
	}
	return o.(*corev1.ConfigMap), nil
}

// Secret returns a Secret as ConfigMap does.
func (s *Store) Secret(ctx context.Context, uid, namespace, name string) (*corev1.Secret, error) {
	o, err := s.get(ctx, uid, key{"secrets", namespace, name})
	if err != nil {
		return nil, err
	}
	return o.(*corev1.Secret), nil
}

func (s *Store) get(ctx context.Context, uid string, k key) (runtime.Object, error) {
	w := s.follow(uid, k)
	if !w.synced() {
		// The first answer comes from a plain read: it tells what is wrong, where a watch only tries again.
		return s.read(ctx, k)
	}
	o, ok, err := w.store.GetByKey(k.namespace + "/" + k.name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, k.notFound()
	}
	return o.(runtime.Object), nil
}

func (s *Store) read(ctx context.Context, k key) (o runtime.Object, err error) {
	if k.resource == "secrets" {
		o, err = s.client.CoreV1().Secrets(k.namespace).Get(ctx, k.name, metav1.GetOptions{})
	} else {
		o, err = s.client.CoreV1().ConfigMaps(k.namespace).Get(ctx, k.name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		err = k.notFound()
	}
	return o, err
}

// notFound says so in the words that users know from the kubelet: it names the kind in the singular.
func (k key) notFound() error {
	return apierrors.NewNotFound(corev1.Resource(k.resource[:len(k.resource)-1]), k.name)
}

func (s *Store) follow(uid string, k key) *watcher {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watchers[k]
	if w == nil {
		w = s.watch(k)
		s.watchers[k] = w
	}
	w.pods[uid] = true
	return w
}

func (s *Store) watch(k key) *watcher {
	ctx, cancel := context.WithCancel(s.ctx)
	w := &watcher{cancel: cancel, pods: map[string]bool{}}
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, k.name).String()
	list := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			if k.resource == "secrets" {
				return s.client.CoreV1().Secrets(k.namespace).List(ctx, o)
			}
			return s.client.CoreV1().ConfigMaps(k.namespace).List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			if k.resource == "secrets" {
				return s.client.CoreV1().Secrets(k.namespace).Watch(ctx, o)
			}
			return s.client.CoreV1().ConfigMaps(k.namespace).Watch(ctx, o)
		},
	}
	var kind runtime.Object = &corev1.ConfigMap{}
	if k.resource == "secrets" {
		kind = &corev1.Secret{}
	}
	tell := func() { s.tell(w) }
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: list, ObjectType: kind,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { tell() }, UpdateFunc: func(any, any) { tell() }, DeleteFunc: func(any) { tell() },
		},
	})
	w.store, w.synced = store, informer.HasSynced
	go informer.RunWithContext(ctx)
	return w
}

func (s *Store) tell(w *watcher) {
	s.mu.Lock()
	var uids []string
	for uid := range w.pods {
		uids = append(uids, uid)
	}
	s.mu.Unlock()
	for _, uid := range uids {
		s.changed(uid)
	}
}

// Release ends the pod's interest in all objects.
func (s *Store) Release(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, w := range s.watchers {
		delete(w.pods, uid)
		if len(w.pods) == 0 {
			w.cancel()
			delete(s.watchers, k)
		}
	}
}
