package kernel

import (
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/dns/server"
	"github.com/skep-io/skep/dns/wire"
)

// Work implements server.Kernel.
func (a *Answers) Work() (server.KernelWork, error) {
	work := server.KernelWork{State: "off", Left: map[string]uint64{}}
	zone, err := a.maps.Zone()
	if err != nil {
		return work, err
	}
	switch flags := abi.DNSZoneFlag(zone.Flags); {
	case flags&abi.DNSComplete != 0:
		work.State = "answers"
	case flags&abi.DNSAnswer != 0:
		work.State = "answers, denies nothing"
	}
	counts, err := a.maps.Lookups()
	if err != nil {
		return work, err
	}
	for kind := range abi.DNSKinds {
		for t, rrtype := range [abi.DNSTypes]uint16{wire.TypeA, wire.TypeAAAA, 0} {
			for family := range abi.DNSFamilies {
				n := server.KernelAnswers{Type: rrtype, Family: family, Count: counts[abi.DNSIndex(abi.DNSCount(kind), t, family)]}
				if abi.DNSCount(kind) == abi.DNSAbsent {
					n.Rcode = wire.NXDomain
				}
				if n.Count > 0 {
					work.Answers = append(work.Answers, n)
				}
			}
		}
	}
	reasons, err := abi.ReadDNSReasons()
	for i, reason := range reasons {
		if n := counts[int(abi.DNSReasons)+i]; n > 0 {
			work.Left[reason] = n
		}
	}
	return work, err
}

// Limits of bpf/lib/dns.h.
const (
	maxLabels = 16
	soa       = 54
	opt       = 11
	meta      = 249 // the first of the types that ask for more than records
	metaLast  = 255
)

// Answers implements server.Kernel: it goes through the kernel's rows as bpf/lib/dns.h does. Only a pod of this node is answered.
func (a *Answers) Answers(q *wire.Query, client netip.Addr) bool {
	if _, _, here, err := a.maps.Endpoint(client); err != nil || !here {
		return false
	}
	zone, err := a.maps.Zone()
	if err != nil || zone.Flags&uint32(abi.DNSAnswer) == 0 || q.Class != wire.ClassIN || q.EDNS && q.Version != 0 || q.Labels() > maxLabels ||
		q.Type == 0 || q.Type == wire.TypeOPT || q.Type >= meta && q.Type <= metaLast {
		return false
	}
	size := wire.HeaderLen + len(q.Name()) + 4
	if q.EDNS {
		size += opt
	}
	row, ok, _ := a.find(q, 0)
	if !ok {
		return a.denies(q, int(zone.Labels), zone.Flags) && size+soa <= q.Limit(wire.MaxUDP)
	}
	switch flags := abi.DNSNameFlag(row.Flags); {
	case flags&abi.DNSServer != 0:
		return false
	case q.Type == wire.TypeA && row.N4 > 0:
		size += int(row.N4) * recordA
	case q.Type == wire.TypeAAAA && row.N6 > 0:
		size += int(row.N6) * record6
	case q.Type == wire.TypeA, q.Type == wire.TypeAAAA:
		size += soa
	case flags&abi.DNSAddressesOnly != 0, q.Type == wire.TypeSRV && flags&abi.DNSHasSRV != 0:
		return false
	default:
		size += soa
	}
	return size <= q.Limit(wire.MaxUDP)
}

// find gives the row of the question's name from a label on; short is false for a name that cannot have one.
func (a *Answers) find(q *wire.Query, label int) (row abi.DNSName, ok, short bool) {
	key, short := keyOf(q.From(label))
	if !short {
		return row, false, false
	}
	row, ok, err := a.maps.Name(key)
	return row, ok && err == nil, err == nil
}

// denies says whether a name without a row is known not to exist.
func (a *Answers) denies(q *wire.Query, zone int, flags uint32) bool {
	above := q.Labels() - zone
	if above <= 0 || flags&uint32(abi.DNSComplete) == 0 {
		return false
	}
	top, ok, short := a.find(q, above-1)
	if !short {
		return false
	}
	if !ok {
		apex, ok, _ := a.find(q, above)
		return ok && abi.DNSNameFlag(apex.Flags)&abi.DNSApex != 0
	}
	_, _, fits := a.find(q, 0)
	var parent int
	switch is := abi.DNSNameFlag(top.Flags); {
	case !fits && above < 4 && (is&abi.DNSPods == 0 || above < 3):
		return false
	case is&abi.DNSServices != 0 && (above == 4 || above == 5):
		parent = above - 3
	case is&abi.DNSPods != 0 && above == 3:
		parent = 1
	default:
		return true
	}
	_, ok, short = a.find(q, parent)
	return short && !ok
}
