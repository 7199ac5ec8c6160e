package cluster

import (
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// byService names the index of EndpointSlices by their Service.
const byService = "dns/service"

// Objects keeps the table of names in step with the API: each event rebuilds the one Service that it is about.
type Objects struct {
	services, slices cache.Indexer
	table            *table
	// synced are those of the handlers: once true, the table has what the stores had at the start.
	synced  []cache.InformerSynced
	isReady atomic.Bool
	changed atomic.Int64 // Unix time of the last change
	ttl     atomic.Uint32

	writing sync.Mutex // makes reading the stores and writing the table one step
	// follower is guarded by writing. origin is the zone's, set before there is one.
	follower Follower
	origin   []byte
}

// NewObjects adds an index and handlers to the shared informers; call it before the factory is started. The caller starts the
// factory and owns it.
func NewObjects(factory informers.SharedInformerFactory) (*Objects, error) {
	services := factory.Core().V1().Services().Informer()
	slices := factory.Discovery().V1().EndpointSlices().Informer()
	namespaces := factory.Core().V1().Namespaces().Informer()
	if err := slices.AddIndexers(cache.Indexers{byService: serviceKeys}); err != nil {
		return nil, err
	}
	o := newObjects(services.GetIndexer(), slices.GetIndexer())
	for informer, changed := range map[cache.SharedIndexInformer]func(any, bool){
		services: o.serviceChanged, slices: o.sliceChanged, namespaces: o.namespaceChanged,
	} {
		registration, err := informer.AddEventHandler(handler(changed))
		if err != nil {
			return nil, err
		}
		o.synced = append(o.synced, registration.HasSynced)
	}
	return o, nil
}

func newObjects(services, slices cache.Indexer) *Objects {
	o := &Objects{services: services, slices: slices, table: newTable(), follower: nobody{}}
	o.ttl.Store(DefaultTTL)
	o.touch()
	return o
}

// handler calls changed with each object that came, changed, or (there is false) went.
func handler(changed func(obj any, there bool)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { changed(obj, true) },
		UpdateFunc: func(old, obj any) {
			if was, ok := old.(*discoveryv1.EndpointSlice); ok && sliceService(was) != sliceService(obj.(*discoveryv1.EndpointSlice)) {
				changed(old, false)
			}
			changed(obj, true)
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			changed(obj, false)
		},
	}
}

func (o *Objects) serviceChanged(obj any, _ bool) {
	if svc, ok := obj.(*corev1.Service); ok {
		o.rebuild(svc.Namespace, svc.Name)
	}
}

func (o *Objects) sliceChanged(obj any, _ bool) {
	if s, ok := obj.(*discoveryv1.EndpointSlice); ok && sliceService(s) != "" {
		o.rebuild(s.Namespace, sliceService(s))
	}
}

func (o *Objects) namespaceChanged(obj any, there bool) {
	if ns, ok := obj.(*corev1.Namespace); ok {
		o.writing.Lock()
		defer o.writing.Unlock()
		o.touch()
		if before, after := o.table.namespaceHas(ns.Name, 0, nil), o.table.namespaceHas(ns.Name, 0, &there); before != after {
			o.follower.Namespace(ns.Name, after)
		}
		o.table.setNamespace(ns.Name, there)
	}
}

// rebuild makes the Service's record from what the stores hold now.
func (o *Objects) rebuild(namespace, name string) {
	o.writing.Lock()
	defer o.writing.Unlock()
	o.touch()
	id := namespace + "/" + name
	obj, ok, err := o.services.GetByKey(id)
	if !ok || err != nil {
		o.put(namespace, name, nil)
		return
	}
	objs, err := o.slices.ByIndex(byService, id)
	if err != nil {
		return // the index is there from NewObjects on
	}
	endpointSlices := make([]*discoveryv1.EndpointSlice, 0, len(objs))
	for _, s := range objs {
		endpointSlices = append(endpointSlices, s.(*discoveryv1.EndpointSlice))
	}
	o.put(namespace, name, newRecord(obj.(*corev1.Service), endpointSlices, o.ttl.Load()))
}

// put replaces the record of a Service; nil removes it.
func (o *Objects) put(namespace, name string, r *record) {
	k := key(namespace, name)
	o.tellService(k, namespace, r)
	o.table.put(k, r)
}

// SetTTL changes how long clients may keep answers, in seconds. Addresses carry it ready for the wire, so all are rebuilt.
func (o *Objects) SetTTL(seconds uint32) {
	if o.ttl.Swap(seconds) == seconds {
		return
	}
	o.writing.Lock()
	o.tell()
	o.writing.Unlock()
	for _, obj := range o.services.List() {
		if svc, ok := obj.(*corev1.Service); ok {
			o.rebuild(svc.Namespace, svc.Name)
		}
	}
}

// Synced says whether the table holds what the API server had when the informers were started.
func (o *Objects) Synced() bool {
	if o.isReady.Load() {
		return true
	}
	for _, synced := range o.synced {
		if !synced() {
			return false
		}
	}
	o.isReady.Store(true)
	return true
}

// touch makes now the time of the last change.
func (o *Objects) touch() {
	if now := time.Now().Unix(); o.changed.Swap(now) != now {
		o.tell()
	}
}

func (o *Objects) serial() uint32 { return uint32(o.changed.Load()) }

func sliceService(s *discoveryv1.EndpointSlice) string { return s.Labels[discoveryv1.LabelServiceName] }

func serviceKeys(obj any) ([]string, error) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || sliceService(s) == "" {
		return nil, nil
	}
	return []string{s.Namespace + "/" + sliceService(s)}, nil
}
