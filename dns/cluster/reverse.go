package cluster

import (
	"encoding/binary"
	"net/netip"

	"github.com/skep-io/skep/dns/wire"
)

// reverse answers for the reverse name of an address: a cluster IP has the one name of its Service, an endpoint one for each
// Service that selects it. Addresses of nobody are denied where they are the cluster's, else left to others.
func (z *Zone) reverse(q *wire.Query, r *wire.Reply) Verdict {
	raw, v4, ok := q.Reverse()
	if !ok {
		return Outside
	}
	if !z.Synced() {
		r.Rcode = wire.ServFail
		return Answered
	}
	addr := netip.AddrFrom16(raw)
	if v4 {
		addr = addr.Unmap()
	}
	if z.pointers(q, r, addr) {
		r.Authoritative = true
		return Answered
	}
	for _, p := range z.cfg.Reverse {
		if p.Contains(addr) {
			r.Authoritative, r.Rcode = true, wire.NXDomain
			z.denyReverse(q, r, reverseLabel(q, p))
			return Answered
		}
	}
	return Outside
}

// pointers adds the names of the address and says whether there are any.
func (z *Zone) pointers(q *wire.Query, r *wire.Reply, addr netip.Addr) bool {
	owners := z.cfg.Objects.table.owners(addr)
	for _, svc := range owners {
		for _, ip := range svc.clusterIPs {
			if ip == addr {
				z.pointer(q, r, svc, "")
				return true
			}
		}
	}
	found := false
	for _, svc := range owners {
		if label, ok := svc.hostOf(addr); ok {
			z.pointer(q, r, svc, label)
			found = true
		}
	}
	if found && r.Count(wire.Answer) == 0 && !r.Truncated() {
		z.denyReverse(q, r, q.Labels()-2)
	}
	return found
}

func (z *Zone) pointer(q *wire.Query, r *wire.Reply, svc *record, label string) {
	if q.Type != wire.TypePTR && q.Type != wire.TypeANY {
		if label == "" && r.Count(wire.Authority) == 0 {
			z.denyReverse(q, r, q.Labels()-2)
		}
		return
	}
	size := 1 + len(svc.name) + 1 + len(svc.namespace) + 4 + len(z.origin)
	if label != "" {
		size += 1 + len(label)
	}
	b := r.Record(wire.Answer, wire.QuestionOwner, wire.TypePTR, z.cfg.Objects.ttl.Load(), size)
	if b == nil {
		return
	}
	b = b[:0]
	if label != "" {
		b = wire.AppendLabel(b, label)
	}
	b = wire.AppendLabel(wire.AppendLabel(wire.AppendLabel(b, svc.name), svc.namespace), "svc")
	_ = append(b, z.origin...) // in place: Record made the room
}

// reverseLabel is the label of the question from which on it is the reverse zone that covers the range: that of the whole
// octets, or nibbles, of its length.
func reverseLabel(q *wire.Query, p netip.Prefix) int {
	if p.Addr().Is4() {
		return q.Labels() - 2 - p.Bits()/8
	}
	return q.Labels() - 2 - p.Bits()/4
}

// denyReverse adds an SOA for the reverse zone that begins with the label; its server is this zone's.
func (z *Zone) denyReverse(q *wire.Query, r *wire.Reply, label int) {
	const server, mailbox = "\x02ns\x03dns", "\x0ahostmaster"
	ttl := z.cfg.Objects.ttl.Load()
	b := r.Record(wire.Authority, wire.Pointer(wire.HeaderLen+q.Offset(label)), wire.TypeSOA, min(ttl, maxSOATTL), len(server)+len(mailbox)+2*len(z.origin)+20)
	if b == nil {
		return
	}
	at := copy(b, server)
	at += copy(b[at:], z.origin)
	at += copy(b[at:], mailbox)
	at += copy(b[at:], z.origin)
	for i, v := range [...]uint32{z.cfg.Objects.serial(), 7200, 1800, 86400, ttl} {
		binary.BigEndian.PutUint32(b[at+4*i:], v)
	}
}
