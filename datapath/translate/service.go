// Package translate turns API objects into rows of desired. Every function is pure: its result follows from its arguments
// alone, never from history, so the order of events cannot matter.
package translate

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skep-io/skep/datapath/desired"
)

// labelProxyName marks a Service as somebody else's to implement.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// View is what the translation of Services depends on besides the objects of one Service.
type View struct {
	// ClusterDNS is the cluster's DNS address. Whatever its EndpointSlices say, the Service that has it leads to DNS, the
	// server on this node: a look-up never leaves the node and works while the API server is away.
	ClusterDNS netip.Addr
	DNS        netip.AddrPort
}

// Service returns a row for each port of a Service that has cluster IPs, sorted by name. slices are its EndpointSlices in any
// order.
func Service(svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, view View) []desired.Service {
	clusterIP, ok := clusterIPv4(svc)
	if !ok {
		return nil
	}
	rows := make([]desired.Service, 0, len(svc.Spec.Ports))
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		protocol, ok := protocolOf(port.Protocol)
		if !ok {
			continue
		}
		row := desired.Service{
			Name:      desired.PortName{Namespace: svc.Namespace, Service: svc.Name, Port: port.Name},
			Frontends: frontends(svc, port, clusterIP, protocol),
		}
		if clusterIP == view.ClusterDNS {
			row.Backends = []desired.Backend{{Address: view.DNS, Protocol: protocol}}
		} else {
			row.Backends = backends(endpointSlices, port.Name, port.Protocol, protocol)
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b desired.Service) int { return a.Name.Compare(b.Name) })
	return rows
}

// clusterIPv4 returns the Service's IPv4 cluster IP. Headless Services and external names have none: there is nothing to
// balance.
func clusterIPv4(svc *corev1.Service) (netip.Addr, bool) {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Labels[labelProxyName] != "" {
		return netip.Addr{}, false
	}
	for _, s := range append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...) {
		if addr, err := netip.ParseAddr(s); err == nil && addr.Is4() {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func protocolOf(p corev1.Protocol) (desired.Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return desired.TCP, true
	case corev1.ProtocolUDP:
		return desired.UDP, true
	}
	return 0, false
}

// frontends lists where one port of a Service answers, sorted, each address once: the cluster IP wins over an external IP that
// repeats it, so that the row says what it is.
func frontends(svc *corev1.Service, port *corev1.ServicePort, clusterIP netip.Addr, protocol desired.Protocol) []desired.Frontend {
	number := uint16(port.Port)
	list := make([]desired.Frontend, 0, 2)
	add := func(addr netip.Addr, number uint16, kind desired.Kind) {
		list = append(list, desired.Frontend{Address: netip.AddrPortFrom(addr, number), Protocol: protocol, Kind: kind})
	}
	add(clusterIP, number, desired.ClusterIP)
	for _, s := range svc.Spec.ExternalIPs {
		if addr, err := netip.ParseAddr(s); err == nil && addr.Is4() {
			add(addr, number, desired.ExternalIP)
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			// In mode Proxy the packets come to the node port by themselves.
			if ingress.IPMode != nil && *ingress.IPMode != corev1.LoadBalancerIPModeVIP {
				continue
			}
			if addr, err := netip.ParseAddr(ingress.IP); err == nil && addr.Is4() {
				add(addr, number, desired.LoadBalancer)
			}
		}
	}
	if port.NodePort != 0 && (svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer) {
		add(desired.AnyLocal, uint16(port.NodePort), desired.NodePort)
	}
	slices.SortStableFunc(list, desired.Frontend.Compare)
	return slices.CompactFunc(list, func(a, b desired.Frontend) bool { return a.Compare(b) == 0 })
}

// backends lists the endpoints of one port that may take new connections, sorted, each once: the ready ones or, when there are
// none, those that terminate but still serve, which is better than refusing (KEP-1669).
func backends(endpointSlices []*discoveryv1.EndpointSlice, name string, apiProtocol corev1.Protocol, protocol desired.Protocol) []desired.Backend {
	var ready, terminating []desired.Backend
	for _, slice := range endpointSlices {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		number, ok := portOf(slice, name, apiProtocol)
		if !ok {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			list := &ready
			if !isReady(&e.Conditions) {
				if !isServingWhileTerminating(&e.Conditions) {
					continue
				}
				list = &terminating
			}
			// All addresses of one endpoint are the same process; the API keeps one.
			if len(e.Addresses) == 0 {
				continue
			}
			if addr, err := netip.ParseAddr(e.Addresses[0]); err == nil && addr.Is4() {
				*list = append(*list, desired.Backend{Address: netip.AddrPortFrom(addr, number), Protocol: protocol})
			}
		}
	}
	list := ready
	if len(list) == 0 {
		list = terminating
	}
	slices.SortFunc(list, desired.Backend.Compare)
	return slices.Compact(list)
}

// portOf finds the number that a slice gives to a named port. A port without a number stands for all ports and cannot be
// balanced to.
func portOf(slice *discoveryv1.EndpointSlice, name string, protocol corev1.Protocol) (uint16, bool) {
	for i := range slice.Ports {
		p := &slice.Ports[i]
		if p.Port == nil || *p.Port <= 0 || *p.Port > 65535 {
			continue
		}
		if deref(p.Name, "") == name && deref(p.Protocol, corev1.ProtocolTCP) == orTCP(protocol) {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

func isReady(c *discoveryv1.EndpointConditions) bool { return deref(c.Ready, true) }

func isServingWhileTerminating(c *discoveryv1.EndpointConditions) bool {
	return deref(c.Serving, deref(c.Ready, true)) && deref(c.Terminating, false)
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
