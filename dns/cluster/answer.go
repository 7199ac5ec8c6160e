package cluster

import (
	"encoding/binary"
	"net/netip"

	"github.com/skep-io/skep/dns/wire"
)

// answer is one look-up in the zone.
type answer struct {
	zone *Zone
	q    *wire.Query
	r    *wire.Reply
	turn int
	// owner is the name of the records: the question's, or behind an alias its target's.
	owner  uint16
	chased bool
	ttl    uint32
	// labels are those left of the origin.
	labels int
	// target is set where the answer is an alias; targetAt points to it in the message.
	target   []byte
	targetAt uint16
}

func (a *answer) is(rrtype uint16) bool { return a.q.Type == rrtype || a.q.Type == wire.TypeANY }

func (a *answer) missing() { a.r.Rcode = wire.NXDomain }

// resolve writes what there is; nothing written and NOERROR is NODATA.
func (a *answer) resolve() {
	n := a.labels
	if n == 0 {
		a.apex()
		return
	}
	switch last := a.q.Label(n - 1); {
	case string(last) == "svc":
		a.belowServices()
	case string(last) == "pod":
		a.belowPods()
	case n == 1 && string(last) == "dns-version":
		if a.is(wire.TypeTXT) {
			if b := a.r.Record(wire.Answer, a.owner, wire.TypeTXT, versionTTL, 1+len(specification)); b != nil {
				b[0] = byte(copy(b[1:], specification))
			}
		}
	case string(last) == "dns" && (n == 1 || (n == 2 && string(a.q.Label(0)) == "ns")):
		// The SOA names ns.dns; it has the addresses of the Service before the servers, and dns is above it.
		if svc := a.zone.cfg.Objects.table.service(a.zone.service); n == 2 && svc != nil {
			a.addresses(svc.base)
		}
	default:
		a.missing()
	}
}

func (a *answer) belowServices() {
	n, table := a.labels, a.zone.cfg.Objects.table
	switch {
	case n == 1:
		return
	case n == 2:
		if !table.hasNamespace(a.q.Label(0)) {
			a.missing()
		}
		return
	case n > 5:
		a.missing()
		return
	}
	name := a.q.Name()
	svc := table.service(name[a.q.Offset(n-3):a.q.Offset(n-1)])
	if svc == nil || !svc.exists || (svc.alias != nil && n > 3) {
		a.missing()
		return
	}
	switch n {
	case 3:
		a.service(svc)
	case 4:
		a.belowService(svc, a.q.Label(0))
	case 5:
		a.port(svc, a.q.Label(0), a.q.Label(1))
	}
}

func (a *answer) service(svc *record) {
	switch {
	case svc.alias != nil:
		a.alias(svc.alias)
	case a.q.Type == wire.TypeSRV:
		a.srv(svc, wanted{protocol: -1})
	default:
		a.addresses(svc.base)
	}
}

// belowService is a name of an endpoint, or the empty one above the named ports.
func (a *answer) belowService(svc *record, label []byte) {
	if h, ok := svc.host(label); ok {
		a.addresses(h.of(svc.endpoints))
	} else if !svc.hasProtocol(label) {
		a.missing()
	}
}

// port answers _port._protocol.<service>: SRV records, and like CoreDNS addresses too. The underscores may be missing.
func (a *answer) port(svc *record, port, protocol []byte) {
	if len(port) > 0 && port[0] == '_' {
		port = port[1:]
	}
	w := wanted{port: port, protocol: protocolOf(protocol)}
	switch {
	case w.protocol < 0 || len(port) == 0 || !svc.hasPort(w):
		a.missing()
	case a.q.Type == wire.TypeSRV:
		a.srv(svc, w)
	default:
		a.addresses(svc.base)
	}
}

// addresses adds those of the question's type. A question for any type gets one type (RFC 8482 4.1).
func (a *answer) addresses(of addresses) {
	rrtype := a.q.Type
	if rrtype == wire.TypeANY {
		rrtype = wire.TypeA
		if len(of.v4) == 0 {
			rrtype = wire.TypeAAAA
		}
	}
	if rrtype != wire.TypeA && rrtype != wire.TypeAAAA {
		return
	}
	if records, stride := of.of(rrtype); len(records) > 0 {
		a.r.Fixed(wire.Answer, records, stride, a.turn, a.owner)
	}
}

func (a *answer) alias(target []byte) {
	b := a.r.Record(wire.Answer, a.owner, wire.TypeCNAME, a.ttl, len(target))
	if b != nil {
		a.targetAt = wire.Pointer(a.r.Len() - len(target))
		copy(b, target)
	}
	a.target = target
}

// spelled is the origin as the client spelled it.
func (a *answer) spelled() []byte {
	if a.chased {
		return a.zone.origin
	}
	at := wire.HeaderLen + a.q.Offset(a.labels)
	return a.r.Bytes()[at : at+len(a.zone.origin)]
}

func (a *answer) apex() {
	z := a.zone
	switch a.q.Type {
	case wire.TypeSOA, wire.TypeANY:
		z.soa(a.r, wire.Answer, a.owner, min(a.ttl, maxSOATTL), a.ttl)
	case wire.TypeNS:
		b := a.r.Record(wire.Answer, a.owner, wire.TypeNS, a.ttl, len(z.target)+2)
		if b == nil {
			return
		}
		at := wire.Pointer(a.r.Len() - len(b[:len(z.target)+2]))
		binary.BigEndian.PutUint16(b[copy(b, z.target):], a.owner)
		if svc := z.cfg.Objects.table.service(z.service); svc != nil {
			a.glue(svc.base, at)
		}
	}
}

// glue adds addresses that save the client a question.
func (a *answer) glue(of addresses, owner uint16) {
	if len(of.v4) > 0 {
		a.r.Fixed(wire.Extra, of.v4, recordA, 0, owner)
	}
	if len(of.v6) > 0 {
		a.r.Fixed(wire.Extra, of.v6, recordAAAA, 0, owner)
	}
}

// belowPods answers a-b-c-d.<namespace>.pod.
func (a *answer) belowPods() {
	mode, n := PodMode(a.zone.pods.Load()), a.labels
	if n == 1 {
		return
	}
	if n > 3 || !a.zone.cfg.Objects.table.hasNamespace(a.q.Label(n-2)) || (n == 3 && mode == PodsDisabled) {
		a.missing()
		return
	}
	if n == 2 {
		return
	}
	addr, ok := undashed(a.q.Label(0))
	if ok && mode == PodsVerified && a.zone.cfg.Pods != nil && !a.zone.cfg.Pods.Synced() {
		a.r.Authoritative, a.r.Rcode = false, wire.ServFail
		return
	}
	if !ok || (mode == PodsVerified && (a.zone.cfg.Pods == nil || !a.zone.cfg.Pods.HasPod(string(a.q.Label(1)), addr))) {
		a.missing()
		return
	}
	rrtype, data := wire.TypeA, 4
	if !addr.Is4() {
		rrtype, data = wire.TypeAAAA, 16
	}
	if !a.is(rrtype) {
		return
	}
	if b := a.r.Record(wire.Answer, a.owner, rrtype, a.ttl, data); b != nil {
		v := addr.As16()
		copy(b, v[16-data:])
	}
}

// undashed reads an address as dashed writes it.
func undashed(label []byte) (netip.Addr, bool) {
	var text [64]byte
	for _, sep := range []byte{'.', ':'} {
		n := copy(text[:], label)
		for i := range text[:n] {
			if text[i] == '-' {
				text[i] = sep
			}
		}
		if addr, err := netip.ParseAddr(string(text[:n])); err == nil && addr.Zone() == "" && !addr.Is4In6() {
			return addr, true
		}
	}
	return netip.Addr{}, false
}
