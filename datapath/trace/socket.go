package trace

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// Call is a socket that connects, or sends a datagram.
type Call struct {
	// Client is the pod's address; the zero address: a process of the node.
	Client   netip.Addr
	Target   netip.AddrPort
	Protocol desired.Protocol
}

// Answer is what the socket programs make of a call.
type Answer struct {
	// Asked is the frontend that matched; the zero one: none did.
	Asked desired.Frontend
	// Service is the id of its Service.
	Service uint32
	// Target is where the packets go: the backend, or what the call asked for.
	Target netip.AddrPort
	// Refused is the reason, as `skep net drops` names it.
	Refused string
	// Backends are all from which one is chosen, sorted.
	Backends []netip.AddrPort
	// Chosen says how.
	Chosen string
}

// tables are what Services the kernel has, and what it needs to know for them.
type tables struct {
	maps     *bpfmap.Maps
	services bpfmap.ServiceTables
	sources  map[uint32][]netip.Prefix
	nodes    map[netip.Addr]desired.Node
}

func readTables(m *bpfmap.Maps) (t tables, err error) {
	t.maps = m
	if t.services, err = m.Services(); err != nil {
		return t, err
	}
	if t.sources, err = m.SourceRanges(); err != nil {
		return t, err
	}
	t.nodes, err = m.Nodes().List()
	return t, err
}

// frontend is frontend_lookup of bpf/lib/service.h.
func (t tables) frontend(to netip.AddrPort, protocol desired.Protocol, here bool) (desired.Frontend, bpfmap.Target, bool) {
	loopback := to.Addr().IsLoopback()
	if loopback && !here {
		return desired.Frontend{}, bpfmap.Target{}, false
	}
	f := desired.Frontend{Address: to, Protocol: protocol}
	target, ok := t.services.Frontends[f]
	if ok || !loopback && !t.nodes[to.Addr()].Local {
		return f, target, ok
	}
	wildcard := desired.AnyLocal
	if to.Addr().Is6() {
		wildcard = desired.AnyLocal6
	}
	f.Address = netip.AddrPortFrom(wildcard, to.Port())
	target, ok = t.services.Frontends[f]
	return f, target, ok
}

// admits is frontend_admits of bpf/lib/service.h.
func (t tables) admits(target bpfmap.Target, source netip.Addr) bool {
	return !target.Restricted || t.nodes[source].Local ||
		slices.ContainsFunc(t.sources[target.Service], func(p netip.Prefix) bool { return p.Contains(source) })
}

// backends are those that a Service chooses from.
func (t tables) backends(id uint32) []netip.AddrPort {
	s := t.services.Services[id]
	var list []netip.AddrPort
	for _, b := range s.Backends[:min(int(s.Row.Slots), len(s.Backends))] {
		if b.Address.IsValid() {
			list = append(list, b.Address)
		}
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return list
}

// call is what bpf/prog/sock.bpf.c does with a socket, but for the dice: of several backends it takes the one at the address prefer, or
// the first.
func (t tables) call(c Call, prefer netip.Addr) (Answer, error) {
	a := Answer{Target: c.Target}
	f, target, ok := t.frontend(c.Target, c.Protocol, !c.Client.IsValid())
	if !ok {
		return a, nil
	}
	a.Asked, a.Service = f, target.Service
	if c.Client.IsValid() && !t.admits(target, c.Client) {
		a.Refused = "source_range"
		return a, nil
	}
	a.Backends = t.backends(target.Service)
	if len(a.Backends) == 0 {
		a.Refused = "no_backend"
		return a, nil
	}
	row := t.services.Services[target.Service].Row
	a.Target = a.Backends[0]
	switch {
	case len(a.Backends) == 1:
		a.Chosen = "the only backend"
	case row.Least:
		a.Chosen = fmt.Sprintf("of %d backends the less busy of two at random; the trace goes on with this one", len(a.Backends))
	default:
		a.Chosen = fmt.Sprintf("one of %d backends at random; the trace goes on with this one", len(a.Backends))
	}
	if row.Affinity > 0 {
		known, ok, err := t.maps.Affinity(c.Client, target.Service)
		if err != nil {
			return a, err
		}
		had := netip.AddrPortFrom(known.Addr.Netip(), abi.HostPort(known.Port))
		if ok && slices.Contains(a.Backends, had) {
			a.Target, a.Chosen = had, "client affinity: the backend that this client had last, unless that is too long ago"
			return a, nil
		}
	}
	if at := slices.IndexFunc(a.Backends, func(b netip.AddrPort) bool { return b.Addr() == prefer }); at >= 0 {
		a.Target, a.Chosen = a.Backends[at], cmp.Or(a.Chosen, "asked for")
	}
	return a, nil
}
