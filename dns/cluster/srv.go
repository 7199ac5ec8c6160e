package cluster

import (
	"encoding/binary"

	"github.com/skep-io/skep/dns/wire"
)

// maxGlue bounds the targets whose addresses an SRV answer carries along: clients ask for the others.
const maxGlue = 64

// srv adds the SRV records of the wanted ports, and their targets' addresses as far as they fit. Targets are not compressed
// (RFC 2782), and end in the origin as the client spelled it.
func (a *answer) srv(svc *record, w wanted) {
	count := 0
	eachTarget(svc, w, func(*host, port) bool { count++; return true })
	if count == 0 {
		return
	}
	weight := uint16(max(100/count, 1))
	var last *host
	var glue [maxGlue]struct {
		owner uint16
		host  *host
	}
	glued := 0
	eachTarget(svc, w, func(h *host, p port) bool {
		at, ok := a.srvRecord(svc, h, p, weight)
		if ok && (glued == 0 || h != last) && glued < maxGlue && at <= 0x3fff {
			glue[glued].owner, glue[glued].host = wire.Pointer(at), h
			glued, last = glued+1, h
		}
		return ok
	})
	for _, g := range glue[:glued] {
		if g.host != nil {
			a.glue(g.host.of(svc.endpoints), g.owner)
		} else {
			a.glue(svc.base, g.owner)
		}
	}
}

// eachTarget calls f with the endpoint, nil for the Service itself, and the port of each SRV record, until it returns false.
func eachTarget(svc *record, w wanted, f func(*host, port) bool) {
	if !svc.headless {
		for i, p := range svc.ports {
			if w.takes(p) && !repeated(svc.ports[:i], p, w) && !f(nil, p) {
				return
			}
		}
		return
	}
	for i := range svc.hosts {
		ports := svc.hosts[i].ports
		for j, p := range ports {
			if w.takes(p) && !repeated(ports[:j], p, w) && !f(&svc.hosts[i], p) {
				return
			}
		}
	}
}

// repeated says whether an earlier port makes the same record: one number under two protocols, asked for without one.
func repeated(earlier []port, p port, w wanted) bool {
	for _, e := range earlier {
		if e.number == p.number && w.takes(e) {
			return true
		}
	}
	return false
}

// srvRecord adds one record and returns where its target stands.
func (a *answer) srvRecord(svc *record, h *host, p port, weight uint16) (at int, ok bool) {
	const fixed, subtree = 6, "\x03svc"
	origin := a.spelled()
	size := fixed + 1 + len(svc.name) + 1 + len(svc.namespace) + len(subtree) + len(origin)
	if h != nil {
		size += 1 + len(h.label)
	}
	b := a.r.Record(wire.Answer, a.owner, wire.TypeSRV, a.ttl, size)
	if b == nil {
		return 0, false
	}
	at = a.r.Len() - size + fixed
	binary.BigEndian.PutUint16(b, 0)
	binary.BigEndian.PutUint16(b[2:], weight)
	binary.BigEndian.PutUint16(b[4:], p.number)
	b = b[:fixed]
	if h != nil {
		b = wire.AppendLabel(b, h.label)
	}
	b = wire.AppendLabel(wire.AppendLabel(b, svc.name), svc.namespace)
	_ = append(append(b, subtree...), origin...) // in place: Record made the room
	return at, true
}
