package translate

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skep-io/skep/datapath/desired"
)

// endpoint is one endpoint of a Service port as far as choosing among them goes.
type endpoint struct {
	address netip.AddrPort
	// ready takes new connections; terminating serves while it ends, and takes them when nobody is ready (KEP-1669).
	ready, terminating bool
	// local is on this node.
	local bool
	// hints are what the slices say of whom the endpoint is for.
	hints *discoveryv1.EndpointHints
}

type endpoints []endpoint

// endpointsOf lists the endpoints of one port and family that can take connections at all.
func endpointsOf(endpointSlices []*discoveryv1.EndpointSlice, port *corev1.ServicePort, v6 bool, view View) endpoints {
	family := discoveryv1.AddressTypeIPv4
	if v6 {
		family = discoveryv1.AddressTypeIPv6
	}
	var list endpoints
	for _, slice := range endpointSlices {
		if slice.AddressType != family {
			continue
		}
		number, ok := portOf(slice, port.Name, port.Protocol)
		if !ok {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			// All addresses of one endpoint are the same process; the API keeps one.
			if len(e.Addresses) == 0 {
				continue
			}
			addr, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || addr.Is6() != v6 {
				continue
			}
			one := endpoint{
				address: netip.AddrPortFrom(addr, number), hints: e.Hints,
				ready:       deref(e.Conditions.Ready, true),
				terminating: deref(e.Conditions.Serving, deref(e.Conditions.Ready, true)) && deref(e.Conditions.Terminating, false),
				local:       view.NodeName != "" && deref(e.NodeName, "") == view.NodeName,
			}
			if one.ready || one.terminating {
				list = append(list, one)
			}
		}
	}
	return list
}

// any tells whether somebody serves, wherever.
func (l endpoints) any() bool { return len(l) > 0 }

// cluster returns the endpoints for the traffic policy Cluster: the ready ones that the hints mean for this node, or all ready
// ones where the hints do not add up, or those that terminate.
func (l endpoints) cluster(view View) endpoints {
	ready := l.where(func(e endpoint) bool { return e.ready })
	if len(ready) == 0 {
		return l
	}
	for _, hinted := range []func(endpoint) (any, mine bool){
		func(e endpoint) (bool, bool) { return forNode(e.hints, view.NodeName) },
		func(e endpoint) (bool, bool) { return forZone(e.hints, view.Zone) },
	} {
		complete := !slices.ContainsFunc(ready, func(e endpoint) bool { any, _ := hinted(e); return !any })
		mine := ready.where(func(e endpoint) bool { _, mine := hinted(e); return mine })
		if complete && len(mine) > 0 {
			return mine
		}
	}
	return ready
}

// local returns the endpoints for the traffic policy Local, of which hints say nothing.
func (l endpoints) local() endpoints {
	if ready := l.where(func(e endpoint) bool { return e.ready && e.local }); len(ready) > 0 {
		return ready
	}
	return l.where(func(e endpoint) bool { return e.local })
}

// Health returns where load balancers ask about a Service, and how many endpoints on this node take connections; false: nowhere.
func Health(svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, view View) (port uint16, local int, ok bool) {
	if svc.Spec.HealthCheckNodePort <= 0 || svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return 0, 0, false
	}
	seen := map[netip.Addr]bool{}
	for i := range svc.Spec.Ports {
		for _, v6 := range []bool{false, true} {
			for _, e := range endpointsOf(endpointSlices, &svc.Spec.Ports[i], v6, view) {
				// Those that terminate are left out, for the balancer to go elsewhere in time (KEP-1669).
				if e.ready && e.local && !seen[e.address.Addr()] {
					seen[e.address.Addr()] = true
					local++
				}
			}
		}
	}
	return uint16(svc.Spec.HealthCheckNodePort), local, true
}

func (l endpoints) where(is func(endpoint) bool) endpoints {
	var list endpoints
	for _, e := range l {
		if is(e) {
			list = append(list, e)
		}
	}
	return list
}

// forNode and forZone tell whether hints of the kind are there at all, and whether they name this node or zone.
func forNode(h *discoveryv1.EndpointHints, node string) (any, mine bool) {
	if h == nil {
		return false, false
	}
	return len(h.ForNodes) > 0, slices.ContainsFunc(h.ForNodes, func(n discoveryv1.ForNode) bool { return n.Name == node })
}

func forZone(h *discoveryv1.EndpointHints, zone string) (any, mine bool) {
	if h == nil {
		return false, false
	}
	return len(h.ForZones) > 0, slices.ContainsFunc(h.ForZones, func(z discoveryv1.ForZone) bool { return z.Name == zone })
}

// backends returns the rows of endpoints, sorted, each once.
func backends(list endpoints, protocol desired.Protocol) []desired.Backend {
	var rows []desired.Backend
	for _, e := range list {
		rows = append(rows, desired.Backend{Address: e.address, Protocol: protocol})
	}
	slices.SortFunc(rows, desired.Backend.Compare)
	return slices.Compact(rows)
}

// portOf finds the number that a slice gives to a named port. A port without a number stands for all ports and cannot be
// balanced to.
func portOf(slice *discoveryv1.EndpointSlice, name string, protocol corev1.Protocol) (uint16, bool) {
	for i := range slice.Ports {
		p := &slice.Ports[i]
		if p.Port == nil || *p.Port <= 0 || *p.Port > 65535 {
			continue
		}
		if deref(p.Name, "") == name && orTCP(deref(p.Protocol, corev1.ProtocolTCP)) == orTCP(protocol) {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

func orTCP(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

func deref[T any](p *T, missing T) T {
	if p == nil {
		return missing
	}
	return *p
}
