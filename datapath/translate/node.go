package translate

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/datapath/desired"
)

// Peers returns the ranges of pod addresses of a node, with the address of each family's way to it: those of IPv6 go through the
// node's IPv4 address where it has no other.
func Peers(node *corev1.Node) []desired.Peer {
	var four, six netip.Addr
	for _, a := range node.Status.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		if a.Type != corev1.NodeInternalIP || err != nil {
			continue
		}
		if addr.Is4() && !four.IsValid() {
			four = addr
		}
		if addr.Is6() && !six.IsValid() {
			six = addr
		}
	}
	ranges := node.Spec.PodCIDRs
	if len(ranges) == 0 && node.Spec.PodCIDR != "" {
		ranges = []string{node.Spec.PodCIDR}
	}
	var peers []desired.Peer
	for _, r := range ranges {
		pods, err := netip.ParsePrefix(r)
		if err != nil {
			continue
		}
		by := four
		if pods.Addr().Is6() && six.IsValid() {
			by = six
		}
		if by.IsValid() {
			peers = append(peers, desired.Peer{Pods: pods.Masked(), Node: by})
		}
	}
	return peers
}

// NodeAddresses returns the addresses that a node answers at, sorted, each once: its internal and external ones.
func NodeAddresses(node *corev1.Node) []netip.Addr {
	var list []netip.Addr
	for _, a := range node.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		if addr, err := netip.ParseAddr(a.Address); err == nil {
			list = append(list, addr)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}
