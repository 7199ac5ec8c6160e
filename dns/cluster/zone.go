// Package cluster answers for the cluster's own zone, by the Kubernetes DNS-Based Service Discovery specification 1.1.0
// (https://github.com/kubernetes/dns/blob/master/docs/specification.md) and what clients rely on beyond it. Answers come from
// a table of the watched Services that is changed with each event, a Service at a time, and are never cached beyond it, so
// there is nothing that could be stale. Answering allocates nothing.
package cluster

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/skep-io/skep/dns/wire"
)

const (
	// DefaultTTL is how long clients may keep an answer, in seconds.
	DefaultTTL = 5
	// versionTTL is that of the version, which changes with the program.
	versionTTL = 28800
	// maxSOATTL bounds how long a denial may be kept.
	maxSOATTL = 300
	// specification is the version of the specification that answers follow.
	specification = "1.1.0"
	// maxChase bounds the names that one alias may lead through inside the zone.
	maxChase = 8
)

// PodMode says which names of pods (a-b-c-d.<namespace>.pod.<zone>) there are.
type PodMode uint32

// Modes as CoreDNS has them.
const (
	// PodsInsecure needs the namespace to exist, not the pod.
	PodsInsecure PodMode = iota
	// PodsDisabled has no names of pods.
	PodsDisabled
	// PodsVerified needs a pod with the address in the namespace.
	PodsVerified
)

// Pods knows the pods' addresses.
type Pods interface {
	// HasPod says whether a pod of the namespace has the address.
	HasPod(namespace string, addr netip.Addr) bool
	// Synced says whether all pods are known.
	Synced() bool
}

// Config is what a zone is.
type Config struct {
	// Domain is the cluster domain, for example "cluster.local".
	Domain  string
	Objects *Objects
	// Pods serves PodsVerified; without it no pod is known.
	Pods Pods
	// ServiceNamespace and ServiceName name the Service before the servers, which the NS records point at; empty for
	// kube-system and kube-dns.
	ServiceNamespace, ServiceName string
	// Reverse are ranges of addresses that are the cluster's: reverse names in them that nothing has are denied here, and
	// not asked for elsewhere.
	Reverse []netip.Prefix
}

// Zone answers questions below one origin. It is safe for concurrent use.
type Zone struct {
	cfg    Config
	origin []byte // wire form, lower case
	labels int    // of the origin
	pods   atomic.Uint32
	// target is what the NS record names, without the origin; service is its key.
	target  []byte
	service []byte
}

// NewZone returns the zone. Returns an error if the domain is no domain name.
func NewZone(cfg Config) (*Zone, error) {
	origin, err := wire.AppendName(nil, strings.ToLower(cfg.Domain))
	if err != nil {
		return nil, fmt.Errorf("cluster domain: %w", err)
	}
	if cfg.ServiceName == "" {
		cfg.ServiceNamespace, cfg.ServiceName = "kube-system", "kube-dns"
	}
	z := &Zone{cfg: cfg, origin: origin, service: []byte(key(cfg.ServiceNamespace, cfg.ServiceName))}
	cfg.Objects.origin = origin
	z.labels = strings.Count(strings.Trim(cfg.Domain, "."), ".") + 1
	z.target = wire.AppendLabel(append([]byte(nil), z.service...), "svc")
	return z, nil
}

// SetPods chooses the names of pods.
func (z *Zone) SetPods(mode PodMode) { z.pods.Store(uint32(mode)) }

// SetTTL changes how long clients may keep answers, in seconds.
func (z *Zone) SetTTL(seconds uint32) { z.cfg.Objects.SetTTL(seconds) }

// Synced says whether the zone knows all of the cluster. Until then it answers SERVFAIL: clients would remember a denial.
func (z *Zone) Synced() bool { return z.cfg.Objects.Synced() }

// Origin is the zone's name, lower case, with the final dot.
func (z *Zone) Origin() string { return wire.NameString(z.origin) }

// Verdict is what Answer made of a question.
type Verdict uint8

// What Answer can say.
const (
	// Outside is a name that this zone has no say in: nothing was written.
	Outside Verdict = iota
	// Answered is a complete answer.
	Answered
	// Alias is an answer that ends in an alias whose target lies outside and whose records the client wants too.
	Alias
)

// Contains says whether the name of the question lies in the zone, apart from reverse names.
func (z *Zone) Contains(q *wire.Query) bool {
	n := q.Labels() - z.labels
	return n >= 0 && string(q.From(n)) == string(z.origin)
}

// Answer writes the answer to a question of class IN after r.Begin. turn rotates the addresses. target is the name of an
// Alias, in wire form. It must not be changed.
func (z *Zone) Answer(q *wire.Query, r *wire.Reply, turn int) (v Verdict, target []byte) {
	if !z.Contains(q) {
		return z.reverse(q, r), nil
	}
	r.Authoritative = true
	if !z.Synced() {
		r.Authoritative, r.Rcode = false, wire.ServFail
		return Answered, nil
	}
	a := answer{zone: z, q: q, r: r, turn: turn, owner: wire.QuestionOwner, ttl: z.cfg.Objects.ttl.Load(), labels: q.Labels() - z.labels}
	a.resolve()
	if a.target == nil {
		if r.Count(wire.Answer) == 0 && !r.Truncated() && r.Rcode != wire.ServFail {
			z.deny(q, r, q.Labels()-z.labels)
		}
		return Answered, nil
	}
	if q.Type == wire.TypeCNAME || q.Type == wire.TypeANY || r.Truncated() {
		return Answered, nil
	}
	return z.chase(q, r, turn, a)
}

// chase follows an alias as long as it stays within the zone.
func (z *Zone) chase(q *wire.Query, r *wire.Reply, turn int, a answer) (Verdict, []byte) {
	var next wire.Query
	for range maxChase {
		target := a.target
		if !next.SetName(target) {
			r.Rcode = wire.ServFail
			return Answered, nil
		}
		next.Type, next.Class = q.Type, q.Class
		if !z.Contains(&next) {
			return Alias, target
		}
		a = answer{zone: z, q: &next, r: r, turn: turn, owner: a.targetAt, ttl: a.ttl, labels: next.Labels() - z.labels, chased: true}
		before := r.Count(wire.Answer)
		a.resolve()
		if a.target == nil {
			if r.Count(wire.Answer) == before && !r.Truncated() {
				z.deny(q, r, q.Labels()-z.labels)
			}
			return Answered, nil
		}
	}
	r.Rcode = wire.ServFail // a loop of aliases
	return Answered, nil
}

// deny adds the SOA that a negative answer needs: its owner is the question's name from the label on.
func (z *Zone) deny(q *wire.Query, r *wire.Reply, label int) {
	ttl := z.cfg.Objects.ttl.Load()
	z.soa(r, wire.Authority, wire.Pointer(wire.HeaderLen+q.Offset(label)), min(ttl, maxSOATTL), ttl)
}

// soa adds the start of authority, whose names are compressed to the owner. Its serial is the time of the last change.
func (z *Zone) soa(r *wire.Reply, s wire.Section, owner uint16, ttl, minimum uint32) {
	const names = "\x02ns\x03dns\xc0\x00\x0ahostmaster\xc0\x00"
	b := r.Record(s, owner, wire.TypeSOA, ttl, len(names)+20)
	if b == nil {
		return
	}
	copy(b, names)
	binary.BigEndian.PutUint16(b[7:], owner)
	binary.BigEndian.PutUint16(b[len(names)-2:], owner)
	for i, v := range [...]uint32{z.cfg.Objects.serial(), 7200, 1800, 86400, minimum} {
		binary.BigEndian.PutUint32(b[len(names)+4*i:], v)
	}
}

// Left is the number of the question's labels left of the zone's origin, -1 where it lies outside.
func (z *Zone) Left(q *wire.Query) int {
	if !z.Contains(q) {
		return -1
	}
	return q.Labels() - z.labels
}

// Name is one name with what A and AAAA answers for it hold: whole records whose owners are pointers to the question's name.
type Name struct {
	// Wire is the name in wire form, lower case.
	Wire   []byte
	V4, V6 []byte
	// Alias tells that the name is an ExternalName's, which these records do not answer; Service that it is a Service's own.
	Alias, Service bool
}

// Each calls f with the name of each Service, of its named ports with underscores, and of its endpoints, for an answerer that
// has a table of its own. A name that is none of these may still exist: those of pods, the empty ones above, and those of ports
// without underscores.
func (z *Zone) Each(f func(Name)) {
	z.cfg.Objects.table.each(func(r *record) {
		if !r.exists {
			return
		}
		base := append(wire.AppendLabel([]byte(key(r.namespace, r.name)), "svc"), z.origin...)
		f(Name{Wire: base, V4: r.base.v4, V6: r.base.v6, Alias: r.alias != nil, Service: true})
		seen := map[string]bool{}
		named := func(ports []port) {
			for _, p := range ports {
				name := string(append(wire.AppendLabel(wire.AppendLabel(nil, "_"+p.name), "_"+p.protocol), base...))
				if p.name != "" && !seen[name] {
					seen[name] = true
					f(Name{Wire: []byte(name), V4: r.base.v4, V6: r.base.v6})
				}
			}
		}
		named(r.ports)
		for _, h := range r.hosts {
			own := h.of(r.endpoints)
			f(Name{Wire: append(wire.AppendLabel(nil, h.label), base...), V4: own.v4, V6: own.v6})
			if r.headless {
				named(h.ports)
			}
		}
	})
}
