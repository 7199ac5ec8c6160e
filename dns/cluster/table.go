package cluster

import (
	"hash/maphash"
	"net/netip"
	"sync"

	"github.com/skep-io/skep/dns/wire"
)

// shards spread readers over locks; a power of two.
const shards = 64

// table holds the records by the wire form of "<service>.<namespace>", and what follows from them: which namespaces there
// are, and which Services an address belongs to. Readers run beside the one writer; an update costs what the one Service costs.
type table struct {
	seed     maphash.Seed
	services [shards]serviceShard

	mu         sync.RWMutex
	namespaces map[string]*namespace
	reverse    map[netip.Addr]owners
}

type serviceShard struct {
	mu      sync.RWMutex
	records map[string]*record
	_       [32]byte // a cache line each
}

// namespace exists for its object, or for a Service that is seen before it: names under it do, so it does too (RFC 8020).
type namespace struct {
	object   bool
	services int
}

// owners are keys of Services. Most addresses have one.
type owners struct {
	first string
	more  []string
}

func newTable() *table {
	t := &table{seed: maphash.MakeSeed(), namespaces: map[string]*namespace{}, reverse: map[netip.Addr]owners{}}
	for i := range t.services {
		t.services[i].records = map[string]*record{}
	}
	return t
}

// key is the wire form of a Service's two labels.
func key(namespace, name string) string {
	return string(wire.AppendLabel(wire.AppendLabel(make([]byte, 0, 2+len(namespace)+len(name)), name), namespace))
}

// service finds a record without allocating.
func (t *table) service(key []byte) *record {
	s := &t.services[maphash.Bytes(t.seed, key)%shards]
	s.mu.RLock()
	r := s.records[string(key)]
	s.mu.RUnlock()
	return r
}

func (t *table) hasNamespace(name []byte) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.namespaces[string(name)] != nil
}

// put replaces the record of a Service; nil removes it. There is one writer at a time.
func (t *table) put(key string, r *record) {
	s := &t.services[maphash.String(t.seed, key)%shards]
	s.mu.Lock()
	old := s.records[key]
	if r != nil {
		s.records[key] = r
	} else {
		delete(s.records, key)
	}
	s.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case old == nil && r != nil:
		t.changeNamespace(r.namespace, func(n *namespace) { n.services++ })
	case old != nil && r == nil:
		t.changeNamespace(old.namespace, func(n *namespace) { n.services-- })
	}
	t.changeReverse(key, old, r)
}

// setNamespace records whether the Namespace object is there.
func (t *table) setNamespace(name string, there bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changeNamespace(name, func(n *namespace) { n.object = there })
}

func (t *table) changeNamespace(name string, change func(*namespace)) {
	n := t.namespaces[name]
	if n == nil {
		n = &namespace{}
		t.namespaces[name] = n
	}
	if change(n); !n.object && n.services == 0 {
		delete(t.namespaces, name)
	}
}

func (t *table) changeReverse(key string, old, r *record) {
	var before, after map[netip.Addr]bool
	if old != nil {
		before = old.reverseAddrs()
	}
	if r != nil {
		after = r.reverseAddrs()
	}
	for a := range before {
		if !after[a] {
			t.dropOwner(a, key)
		}
	}
	for a := range after {
		if before[a] {
			continue
		}
		o := t.reverse[a]
		if o.first == "" {
			o.first = key
		} else {
			o.more = append(o.more[:len(o.more):len(o.more)], key) // readers may hold the old array
		}
		t.reverse[a] = o
	}
}

func (t *table) dropOwner(a netip.Addr, key string) {
	o := t.reverse[a]
	var left []string
	for _, k := range append([]string{o.first}, o.more...) {
		if k != key {
			left = append(left, k)
		}
	}
	if len(left) == 0 {
		delete(t.reverse, a)
		return
	}
	t.reverse[a] = owners{first: left[0], more: left[1:]}
}

// owners returns the records of the Services that the address belongs to.
func (t *table) owners(a netip.Addr) []*record {
	t.mu.RLock()
	o, ok := t.reverse[a]
	t.mu.RUnlock()
	if !ok {
		return nil
	}
	var out []*record
	for _, k := range append([]string{o.first}, o.more...) {
		if r := t.service([]byte(k)); r != nil {
			out = append(out, r)
		}
	}
	return out
}

// each calls f with every record.
func (t *table) each(f func(*record)) {
	for i := range t.services {
		s := &t.services[i]
		s.mu.RLock()
		all := make([]*record, 0, len(s.records))
		for _, r := range s.records {
			all = append(all, r)
		}
		s.mu.RUnlock()
		for _, r := range all {
			f(r)
		}
	}
}
