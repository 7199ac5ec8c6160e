package translate

import (
	"net/netip"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skep-io/skep/datapath/desired"
)

// Lost returns the backends to which sockets may be stuck once a slice has changed from before to after; after is nil when it was
// deleted. A UDP backend is lost when it does not serve any more. A TCP one is lost when it had been announced to end: one that merely
// leaves a Service keeps its connections, as everywhere, until its pod is gone.
func Lost(before, after *discoveryv1.EndpointSlice) []desired.Backend {
	holding := map[desired.Backend]bool{}
	if after != nil {
		Holding(after, holding)
	}
	held := map[desired.Backend]bool{}
	Holding(before, held)
	var lost []desired.Backend
	for b, terminating := range held {
		if _, ok := holding[b]; !ok && (b.Protocol == desired.UDP || terminating) {
			lost = append(lost, b)
		}
	}
	return lost
}

// Holding adds to a set the backends of a slice that may hold connections, and whether they terminate.
func Holding(slice *discoveryv1.EndpointSlice, set map[desired.Backend]bool) {
	for i := range slice.Ports {
		p := &slice.Ports[i]
		protocol, ok := protocolOf(deref(p.Protocol, ""))
		if !ok || p.Port == nil || *p.Port <= 0 || *p.Port > 65535 {
			continue
		}
		for j := range slice.Endpoints {
			e := &slice.Endpoints[j]
			ready := deref(e.Conditions.Ready, true)
			if protocol == desired.UDP && !deref(e.Conditions.Serving, ready) || len(e.Addresses) == 0 {
				continue
			}
			if addr, err := netip.ParseAddr(e.Addresses[0]); err == nil {
				set[desired.Backend{Address: netip.AddrPortFrom(addr, uint16(*p.Port)), Protocol: protocol}] = deref(e.Conditions.Terminating, false)
			}
		}
	}
}
