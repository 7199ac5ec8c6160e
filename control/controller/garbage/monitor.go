package garbage

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/control/controller/served"
)

// monitor watches one resource into the graph. It is the store that client-go's reflector fills.
type monitor struct {
	resource *served.Resource
	graph    *graph
	affected func([]types.UID)
	// listed is closed when the graph has all objects of the resource for the first time.
	listed chan struct{}
	once   sync.Once
}

func newMonitor(resource *served.Resource, graph *graph, affected func([]types.UID)) *monitor {
	return &monitor{resource: resource, graph: graph, affected: affected, listed: make(chan struct{})}
}

func (m *monitor) run(ctx context.Context, client metadata.Interface) {
	objects := client.Resource(m.resource.GroupVersionResource)
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return objects.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return objects.Watch(ctx, options)
		},
	}
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(source, client), &metav1.PartialObjectMetadata{}, m,
		cache.ReflectorOptions{Name: "garbage", TypeDescription: m.resource.String()}).RunWithContext(ctx)
}

// Add puts an object into the graph.
func (m *monitor) Add(obj any) error {
	if meta, ok := obj.(metav1.Object); ok {
		m.affected(m.graph.put(newObject(m.resource, meta)))
	}
	return nil
}

// Update replaces an object of the graph.
func (m *monitor) Update(obj any) error { return m.Add(obj) }

// Delete takes an object out of the graph.
func (m *monitor) Delete(obj any) error {
	if meta, ok := obj.(metav1.Object); ok {
		m.affected(m.graph.remove(meta.GetUID()))
	}
	return nil
}

// Replace makes the objects all that the graph has of the resource.
func (m *monitor) Replace(objects []any, _ string) error {
	stale := map[types.UID]bool{}
	for _, uid := range m.graph.of(m.resource) {
		stale[uid] = true
	}
	for _, obj := range objects {
		if meta, ok := obj.(metav1.Object); ok {
			delete(stale, meta.GetUID())
			m.affected(m.graph.put(newObject(m.resource, meta)))
		}
	}
	for uid := range stale {
		m.affected(m.graph.remove(uid))
	}
	m.once.Do(func() { close(m.listed) })
	return nil
}

// Resync does nothing: the graph has no readers to remind.
func (m *monitor) Resync() error { return nil }
