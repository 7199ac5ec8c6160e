// Package steady has informers for nodes that keep up with an API server which goes away and comes back.
//
// A reflector of client-go waits between two attempts, twice as long each time, up to a minute, and takes two minutes of quiet to forget
// that. After a server's restart what it has seen last is too old to go on from, which counts as an attempt too. A node whose control
// plane starts three times in two minutes would then be half a minute behind: its Services lead to pods that are gone. Here the
// reflector never hears of it: a watch goes on where it was as soon as the server answers, or lists again and tells the difference.
package steady

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Register makes the informers of a factory for what nodes follow ones of this package. It must come before any other use of the factory.
func Register(factory informers.SharedInformerFactory, client kubernetes.Interface) {
	core, discovery, networking := client.CoreV1().RESTClient(), client.DiscoveryV1().RESTClient(), client.NetworkingV1().RESTClient()
	for _, kind := range []struct {
		object   runtime.Object
		client   rest.Interface
		resource string
	}{
		{&corev1.Service{}, core, "services"},
		{&corev1.Pod{}, core, "pods"},
		{&corev1.Node{}, core, "nodes"},
		{&corev1.Namespace{}, core, "namespaces"},
		{&discoveryv1.EndpointSlice{}, discovery, "endpointslices"},
		{&networkingv1.NetworkPolicy{}, networking, "networkpolicies"},
	} {
		factory.InformerFor(kind.object, func(_ kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
			source := cache.NewListWatchFromClient(kind.client, kind.resource, metav1.NamespaceAll, fields.Everything())
			return cache.NewSharedIndexInformer(&listWatch{source: source, pause: pauses}, kind.object, resync, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		})
	}
}

// pauses are between attempts to reach the server: the first, and the longest, which the others come to by doubling.
var pauses = [2]time.Duration{50 * time.Millisecond, time.Second}

// listWatch is a source whose watches do not end by themselves. It is for one reflector.
type listWatch struct {
	source cache.ListerWatcherWithContext
	pause  [2]time.Duration

	mu sync.Mutex
	// known are the objects that the reflector was told of, by namespace and name.
	known map[string]runtime.Object
}

// IsWatchListSemanticsUnSupported makes the reflector list, and not begin with a watch, so that known is complete.
func (l *listWatch) IsWatchListSemanticsUnSupported() bool { return true }

// List is for cache.ListerWatcher; reflectors call ListWithContext.
func (l *listWatch) List(options metav1.ListOptions) (runtime.Object, error) {
	return l.ListWithContext(context.Background(), options)
}

// Watch is for cache.ListerWatcher; reflectors call WatchWithContext.
func (l *listWatch) Watch(options metav1.ListOptions) (watch.Interface, error) {
	return l.WatchWithContext(context.Background(), options)
}

// ListWithContext lists from the source. A list may come in pages.
func (l *listWatch) ListWithContext(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	list, err := l.source.ListWithContext(ctx, options)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if options.Continue == "" {
		l.known = map[string]runtime.Object{}
	}
	return list, eachOf(list, func(key string, object runtime.Object) { l.known[key] = object })
}

func eachOf(list runtime.Object, see func(key string, object runtime.Object)) error {
	return meta.EachListItem(list, func(object runtime.Object) error {
		key, err := cache.MetaNamespaceKeyFunc(object)
		if err == nil {
			see(key, object)
		}
		return err
	})
}

// WatchWithContext begins a watch, which goes on until it is stopped, ctx ends, or the server refuses it.
func (l *listWatch) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	first, err := l.source.WatchWithContext(ctx, options)
	if err != nil && refused(err) {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{from: l, options: options, events: make(chan watch.Event), stop: cancel}
	go s.run(ctx, first)
	return s, nil
}

// refused tells whether it is of no use to try again: the reflector shall report it.
func refused(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsBadRequest(err)
}

func expired(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// stream is a watch over several of the source.
type stream struct {
	from    *listWatch
	options metav1.ListOptions
	events  chan watch.Event
	stop    context.CancelFunc
}

func (s *stream) ResultChan() <-chan watch.Event { return s.events }
func (s *stream) Stop()                          { s.stop() }

// run passes on what the source's watches say, one after the other. w is the first one; nil: it failed.
func (s *stream) run(ctx context.Context, w watch.Interface) {
	defer close(s.events)
	defer s.stop()
	pause := s.from.pause[0]
	for ctx.Err() == nil {
		var err error
		if w == nil {
			w, err = s.from.source.WatchWithContext(ctx, s.options)
		}
		if err == nil {
			var heard bool
			heard, err = s.pass(ctx, w)
			if heard {
				pause = s.from.pause[0]
			}
		}
		w = nil
		if err != nil && expired(err) {
			err = s.relist(ctx)
		}
		if err != nil && refused(err) {
			return // the reflector finds out why when it watches again
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
			pause = min(2*pause, s.from.pause[1])
		}
	}
}

// pass passes one watch's events on until it ends; heard: there was one. The error is what the server said last.
func (s *stream) pass(ctx context.Context, w watch.Interface) (heard bool, err error) {
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return heard, nil
		case e, ok := <-w.ResultChan():
			if !ok {
				return heard, nil
			}
			if e.Type == watch.Error {
				return heard, apierrors.FromObject(e.Object)
			}
			heard = true
			if !s.send(ctx, e) {
				return heard, nil
			}
		}
	}
}

// send passes an event on and notes where the watch has come to.
func (s *stream) send(ctx context.Context, e watch.Event) bool {
	object, err := meta.Accessor(e.Object)
	if err != nil {
		return true // nothing that a reflector could use
	}
	if e.Type != watch.Bookmark {
		s.note(e)
	}
	select {
	case <-ctx.Done():
		return false
	case s.events <- e:
		s.options.ResourceVersion = object.GetResourceVersion()
		return true
	}
}

func (s *stream) note(e watch.Event) {
	key, err := cache.MetaNamespaceKeyFunc(e.Object)
	if err != nil {
		return
	}
	s.from.mu.Lock()
	defer s.from.mu.Unlock()
	if e.Type == watch.Deleted {
		delete(s.from.known, key)
		return
	}
	s.from.known[key] = e.Object
}

// relist tells what has changed since the last event, where the server does not know any more.
func (s *stream) relist(ctx context.Context) error {
	list, err := s.from.source.ListWithContext(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	at, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	events, err := s.from.difference(list)
	if err != nil {
		return err
	}
	for _, e := range events {
		if !s.send(ctx, e) {
			return nil
		}
	}
	s.options.ResourceVersion = at.GetResourceVersion()
	return nil
}

// difference is what makes of the known objects the listed ones: those that are gone first.
func (l *listWatch) difference(list runtime.Object) ([]watch.Event, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var gone, here []watch.Event
	listed := map[string]runtime.Object{}
	err := eachOf(list, func(key string, object runtime.Object) {
		listed[key] = object
		old, exists := l.known[key]
		switch {
		case !exists:
			here = append(here, watch.Event{Type: watch.Added, Object: object})
		case identity(old) != identity(object):
			gone = append(gone, watch.Event{Type: watch.Deleted, Object: old})
			here = append(here, watch.Event{Type: watch.Added, Object: object})
		case version(old) != version(object):
			here = append(here, watch.Event{Type: watch.Modified, Object: object})
		}
	})
	for key, old := range l.known {
		if listed[key] == nil {
			gone = append(gone, watch.Event{Type: watch.Deleted, Object: old})
		}
	}
	return append(gone, here...), err
}

func identity(object runtime.Object) string {
	m, err := meta.Accessor(object)
	if err != nil {
		return ""
	}
	return string(m.GetUID())
}

func version(object runtime.Object) string {
	m, err := meta.Accessor(object)
	if err != nil {
		return ""
	}
	return m.GetResourceVersion()
}
