package bpfmap

import (
	"net"
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/desired"
)

// PutEndpoint writes the row of a pod of this node.
func (m *Maps) PutEndpoint(e desired.Endpoint) error {
	row := abi.Endpoint{Ifindex: uint32(e.IfIndex)}
	copy(row.Mac[:], e.PodMAC)
	return m.endpoint.put(abi.AddrFrom(e.Address), row)
}

// DeleteEndpoint removes the row of an address.
func (m *Maps) DeleteEndpoint(a netip.Addr) error { return m.endpoint.delete(abi.AddrFrom(a)) }

// Endpoint returns the row of an address and whether there is one.
func (m *Maps) Endpoint(a netip.Addr) (desired.Endpoint, bool, error) {
	row, ok, err := m.endpoint.get(abi.AddrFrom(a))
	return endpointOf(abi.AddrFrom(a), row), ok, err
}

// Endpoints returns the rows of all pods of this node.
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
