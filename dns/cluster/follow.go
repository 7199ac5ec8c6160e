package cluster

import (
	"context"

	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/dns/wire"
)

// Follower keeps a table of its own in step with the zone's. It is told of each change by one goroutine at a time, and before the
// zone's own answers show the change.
type Follower interface {
	// Serial is told of the SOA's serial and of how long clients may keep answers, in seconds.
	Serial(serial, ttl uint32)
	// Namespace is told that names below a namespace may now exist, or no longer.
	Namespace(name string, exists bool)
	// Service is told of the names of one Service before and after, as [Zone.Known] lists them.
	Service(before, after []Name)
}

// nobody is the follower of a zone without one.
type nobody struct{}

func (nobody) Serial(uint32, uint32)  {}
func (nobody) Namespace(string, bool) {}
func (nobody) Service(_, _ []Name)    {}

// Follow makes f the follower, nil for none. begin is called before f is told of any change, and no change is made meanwhile: there f
// takes what [Zone.Known] and [Zone.Namespaces] list.
func (z *Zone) Follow(f Follower, begin func()) {
	o := z.cfg.Objects
	o.writing.Lock()
	defer o.writing.Unlock()
	if o.follower = f; f == nil {
		o.follower = nobody{}
		return
	}
	begin()
	o.tell()
}

// WaitSynced returns when the zone knows all of the cluster, false if ctx ended before.
func (z *Zone) WaitSynced(ctx context.Context) bool {
	return cache.WaitForCacheSync(ctx.Done(), z.cfg.Objects.synced...)
}

// Known calls f with the names of each Service: its own first, then those of a headless one's endpoints.
func (z *Zone) Known(f func([]Name)) {
	z.cfg.Objects.table.each(func(r *record) {
		if names := r.names(z.origin); len(names) > 0 {
			f(names)
		}
	})
}

// Namespaces calls f with each namespace.
func (z *Zone) Namespaces(f func(string)) {
	t := z.cfg.Objects.table
	t.mu.RLock()
	defer t.mu.RUnlock()
	for name := range t.namespaces {
		f(name)
	}
}

// names are those of a Service that clients ask for.
func (r *record) names(origin []byte) []Name {
	if r == nil || !r.exists {
		return nil
	}
	base := append(wire.AppendLabel([]byte(key(r.namespace, r.name)), "svc"), origin...)
	names := []Name{{Wire: base, V4: r.base.v4, V6: r.base.v6, Alias: r.alias != nil, Service: true}}
	if r.headless {
		for _, h := range r.hosts {
			own := h.of(r.endpoints)
			names = append(names, Name{Wire: append(wire.AppendLabel(nil, h.label), base...), V4: own.v4, V6: own.v6})
		}
	}
	return names
}

// tell tells the follower what all answers have.
func (o *Objects) tell() { o.follower.Serial(o.serial(), o.ttl.Load()) }

// tellService tells the follower what becomes of a Service, and of its namespace by it.
func (o *Objects) tellService(key, namespace string, r *record) {
	old := o.table.service([]byte(key))
	if _, alone := o.follower.(nobody); alone || old == nil && r == nil {
		return
	}
	before, after := o.table.namespaceHas(namespace, 0, nil), o.table.namespaceHas(namespace, count(r)-count(old), nil)
	if !before && after {
		o.follower.Namespace(namespace, true)
	}
	o.follower.Service(old.names(o.origin), r.names(o.origin))
	if before && !after {
		o.follower.Namespace(namespace, false)
	}
}

func count(r *record) int {
	if r == nil {
		return 0
	}
	return 1
}

// namespaceHas says whether the namespace exists when it has so many Services more, and if object is not nil, its object or not.
func (t *table) namespaceHas(name string, more int, object *bool) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var n namespace
	if known := t.namespaces[name]; known != nil {
		n = *known
	}
	if object != nil {
		n.object = *object
	}
	return n.object || n.services+more > 0
}
