// Package translate turns API objects into rows of desired. Every function is pure: its result follows from its arguments
// alone, never from history, so the order of events cannot matter.
package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skep-io/skep/datapath/desired"
)

// annotationBalance says how clients are spread over backends. Those outside are by the hash of their address and port, alike on
// every node (balanceMaglev, the default, and balanceLeast), or at random (balanceRandom). Those in the cluster are at random,
// but with balanceLeast, where the less busy one of two serves.
const (
	annotationBalance = "skep.dev/balance"
	balanceMaglev     = "maglev"
	balanceRandom     = "random"
	balanceLeast      = "least"
)

// balance returns how to spread clients; what the annotation does not know is the default.
func balance(svc *corev1.Service) string {
	if b := svc.Annotations[annotationBalance]; b == balanceRandom || b == balanceLeast {
		return b
	}
	return balanceMaglev
}

// annotationForwarding says how packets from clients outside get to backends on other nodes: translated, with the answers coming
// back the same way (forwardingSNAT, the default), or untouched, with the backend's node answering the client (forwardingDSR).
// Every node must choose the same backend, so Services with affinity or without rings are always translated.
const (
	annotationForwarding = "skep.dev/forwarding"
	forwardingSNAT       = "snat"
	forwardingDSR        = "dsr"
)

// Misread returns what is wrong with a Service's annotations, empty if nothing is.
func Misread(svc *corev1.Service) string {
	var faults []string
	for _, a := range []struct {
		name, standard string
		known          []string
	}{
		{annotationBalance, balanceMaglev, []string{balanceRandom, balanceMaglev, balanceLeast}},
		{annotationForwarding, forwardingSNAT, []string{forwardingSNAT, forwardingDSR}},
	} {
		value, exists := svc.Annotations[a.name]
		if !exists || slices.Contains(a.known, value) {
			continue
		}
		last := len(a.known) - 1
		faults = append(faults, fmt.Sprintf("Annotation %s=%q is not known and counts as %s: want %s or %s", a.name, value, a.standard,
			strings.Join(a.known[:last], ", "), a.known[last]))
	}
	return strings.Join(faults, "; ")
}

// labelProxyName marks a Service as somebody else's to implement.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// View is what the translation of Services depends on besides the objects of one Service.
type View struct {
	// NodeName is this node, Zone its zone; empty: it is in none.
	NodeName, Zone string
	// DNS leads from the cluster's DNS addresses to the server on this node. Whatever its EndpointSlices say, the Service that has
	// such an address leads there: a look-up never leaves the node and works while the API server is away.
	DNS map[netip.Addr]netip.AddrPort
}

// Service returns the rows of a Service that has cluster IPs, sorted by name: for each port and family one with all backends,
// and where a traffic policy asks for it another with those of this node. slices are its EndpointSlices in any order.
func Service(svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, view View) []desired.Service {
	var rows []desired.Service
	for _, clusterIP := range clusterIPs(svc) {
		for i := range svc.Spec.Ports {
			port := &svc.Spec.Ports[i]
			if protocol, ok := protocolOf(port.Protocol); ok {
				rows = append(rows, portRows(svc, port, clusterIP, protocol, endpointSlices, view)...)
			}
		}
	}
	slices.SortFunc(rows, func(a, b desired.Service) int { return a.Name.Compare(b.Name) })
	return rows
}

// portRows returns the rows of one port in the family of a cluster IP.
func portRows(svc *corev1.Service, port *corev1.ServicePort, clusterIP netip.Addr, protocol desired.Protocol, endpointSlices []*discoveryv1.EndpointSlice, view View) []desired.Service {
	row := desired.Service{
		Name:      desired.PortName{Namespace: svc.Namespace, Service: svc.Name, Port: port.Name, V6: clusterIP.Is6()},
		Frontends: frontends(svc, port, clusterIP, protocol),
		Affinity:  affinity(svc),
		Least:     balance(svc) == balanceLeast,
	}
	if dns, ok := view.DNS[clusterIP]; ok {
		row.Backends = []desired.Backend{{Address: dns, Protocol: protocol}}
		for i := range row.Frontends {
			row.Frontends[i].Local, row.Frontends[i].LocalOutside = false, false
		}
		return []desired.Service{row}
	}
	if slices.ContainsFunc(row.Frontends, func(f desired.Frontend) bool { return f.Restricted }) {
		row.SourceRanges = sourceRanges(svc, clusterIP.Is6())
	}
	all := endpointsOf(endpointSlices, port, clusterIP.Is6(), view)
	row.Backends = backends(all.cluster(view), protocol)
	front := balance(svc) != balanceRandom
	row.Ring = front && slices.ContainsFunc(row.Frontends, func(f desired.Frontend) bool { return f.Kind != desired.ClusterIP && !f.LocalOutside })
	row.DSR = row.Ring && row.Affinity == 0 && svc.Annotations[annotationForwarding] == forwardingDSR
	if !slices.ContainsFunc(row.Frontends, func(f desired.Frontend) bool { return f.Local || f.LocalOutside }) {
		return []desired.Service{row}
	}
	local := desired.Service{Name: row.Name, Affinity: row.Affinity, Least: row.Least, Backends: backends(all.local(), protocol), Silent: all.any()}
	local.Ring = front && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	local.Name.Local = true
	return []desired.Service{row, local}
}

// clusterIPs returns the Service's cluster IPs, at most one of each family. Headless Services and external names have none: there
// is nothing to balance.
func clusterIPs(svc *corev1.Service) []netip.Addr {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Labels[labelProxyName] != "" {
		return nil
	}
	var list []netip.Addr
	for _, s := range append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...) {
		addr, err := netip.ParseAddr(s)
		if err == nil && !slices.ContainsFunc(list, func(a netip.Addr) bool { return a.Is6() == addr.Is6() }) {
			list = append(list, addr)
		}
	}
	return list
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

// affinity returns how many seconds a client stays with its backend.
func affinity(svc *corev1.Service) uint32 {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil && *c.ClientIP.TimeoutSeconds > 0 {
		return uint32(*c.ClientIP.TimeoutSeconds)
	}
	return uint32(corev1.DefaultClientIPServiceAffinitySeconds)
}

// sourceRanges returns who may use the load-balancer addresses of a family, sorted, each once.
func sourceRanges(svc *corev1.Service, v6 bool) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range svc.Spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is6() == v6 {
			list = append(list, p.Masked())
		}
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return slices.Compact(list)
}

// frontends lists where one port of a Service answers in the family of its cluster IP, sorted, each address once: the cluster IP
// wins over an external IP that repeats it, so that the row says what it is.
//
// Clients in the cluster that use one of the other addresses get all backends, whatever the external policy: they are no
// traffic from outside.
func frontends(svc *corev1.Service, port *corev1.ServicePort, clusterIP netip.Addr, protocol desired.Protocol) []desired.Frontend {
	number := uint16(port.Port)
	internal := svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	external := svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	list := make([]desired.Frontend, 0, 2)
	add := func(addr netip.Addr, number uint16, kind desired.Kind) {
		if addr.Is6() == clusterIP.Is6() {
			list = append(list, desired.Frontend{
				Address: netip.AddrPortFrom(addr, number), Protocol: protocol, Kind: kind,
				LocalOutside: external,
				Restricted:   kind == desired.LoadBalancer && len(svc.Spec.LoadBalancerSourceRanges) > 0,
			})
		}
	}
	list = append(list, desired.Frontend{
		Address: netip.AddrPortFrom(clusterIP, number), Protocol: protocol, Kind: desired.ClusterIP, Local: internal, LocalOutside: internal,
	})
	for _, s := range svc.Spec.ExternalIPs {
		if addr, err := netip.ParseAddr(s); err == nil {
			add(addr, number, desired.ExternalIP)
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			// In mode Proxy the packets come to the node port by themselves.
			if ingress.IPMode != nil && *ingress.IPMode != corev1.LoadBalancerIPModeVIP {
				continue
			}
			if addr, err := netip.ParseAddr(ingress.IP); err == nil {
				add(addr, number, desired.LoadBalancer)
			}
		}
	}
	if port.NodePort != 0 && (svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer) {
		any := desired.AnyLocal
		if clusterIP.Is6() {
			any = desired.AnyLocal6
		}
		add(any, uint16(port.NodePort), desired.NodePort)
	}
	slices.SortStableFunc(list, desired.Frontend.Compare)
	return slices.CompactFunc(list, func(a, b desired.Frontend) bool { return a.Compare(b) == 0 })
}
