package bpfmap

import (
	"net"
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/desired"
)

// PutEndpoint writes the rows of a pod of this node: its address with its policies, and its network namespace if that is known.
func (m *Maps) PutEndpoint(e desired.Endpoint, p EndpointPolicy) error {
	if e.NetNS != 0 {
		if err := m.netns.put(e.NetNS, abi.AddrFrom(e.Address)); err != nil {
			return err
		}
	}
	row := abi.Endpoint{Ifindex: uint32(e.IfIndex), Identity: p.Identity, Egress: p.Egress, Ingress: p.Ingress}
	copy(row.Mac[:], e.PodMAC)
	return m.endpoint.put(abi.AddrFrom(e.Address), row)
}

// DeleteEndpoint removes the rows of an address.
func (m *Maps) DeleteEndpoint(a netip.Addr) error {
	cookies, err := m.netnsOf(a)
	if err != nil {
		return err
	}
	for _, c := range cookies {
		if err := m.netns.delete(c); err != nil {
			return err
		}
	}
	return m.endpoint.delete(abi.AddrFrom(a))
}

// netnsOf lists the network namespaces whose pod has the address: one, and those that a crash left behind.
func (m *Maps) netnsOf(a netip.Addr) ([]uint64, error) {
	var cookies []uint64
	err := m.netns.each(func(cookie uint64, pod abi.Addr) bool {
		if pod == abi.AddrFrom(a) {
			cookies = append(cookies, cookie)
		}
		return true
	})
	return cookies, err
}

// Endpoint returns the row of an address with its policies, and whether there is one. NetNS is not filled in.
func (m *Maps) Endpoint(a netip.Addr) (desired.Endpoint, EndpointPolicy, bool, error) {
	row, ok, err := m.endpoint.get(abi.AddrFrom(a))
	return endpointOf(abi.AddrFrom(a), row), policyOf(row), ok, err
}

// Endpoints returns the rows of all pods of this node. NetNS is not filled in.
func (m *Maps) Endpoints() ([]desired.Endpoint, error) {
	var list []desired.Endpoint
	err := m.endpoint.each(func(k abi.Addr, v abi.Endpoint) bool {
		list = append(list, endpointOf(k, v))
		return true
	})
	return list, err
}

func endpointOf(k abi.Addr, v abi.Endpoint) desired.Endpoint {
	return desired.Endpoint{Address: k.Netip(), IfIndex: int(v.Ifindex), PodMAC: net.HardwareAddr(v.Mac[:])}
}
