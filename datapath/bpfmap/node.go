package bpfmap

import (
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/desired"
)

// Nodes is the table of nodes' addresses.
type Nodes struct{ maps *Maps }

// Nodes returns the table of nodes' addresses.
func (m *Maps) Nodes() Nodes { return Nodes{m} }

// Put writes the row of an address.
func (t Nodes) Put(a netip.Addr, n desired.Node) error {
	row := abi.Node{}
	if n.Local {
		row.Flags = abi.NodeLocal
	}
	return t.maps.node.put(abi.AddrFrom(a), row)
}

// Delete removes the row of an address.
func (t Nodes) Delete(a netip.Addr) error { return t.maps.node.delete(abi.AddrFrom(a)) }

// List returns all rows.
func (t Nodes) List() (map[netip.Addr]desired.Node, error) {
	rows := map[netip.Addr]desired.Node{}
	err := t.maps.node.each(func(k abi.Addr, v abi.Node) bool {
		rows[k.Netip()] = desired.Node{Local: v.Flags&abi.NodeLocal != 0}
		return true
	})
	return rows, err
}

// Devices is the table of this node's devices that lead outside, by index.
type Devices struct{ maps *Maps }

// Devices returns the table of this node's devices.
func (m *Maps) Devices() Devices { return Devices{m} }

// Put writes the row of a device.
func (t Devices) Put(index int, d desired.Device) error {
	return t.maps.device.put(uint32(index), abi.Device{Masquerade: abi.AddrFrom(d.Masquerade), Masquerade6: abi.AddrFrom(d.Masquerade6)})
}

// Delete removes the row of a device.
func (t Devices) Delete(index int) error { return t.maps.device.delete(uint32(index)) }

// List returns all rows.
func (t Devices) List() (map[int]desired.Device, error) {
	rows := map[int]desired.Device{}
	err := t.maps.device.each(func(k uint32, v abi.Device) bool {
		rows[int(k)] = desired.Device{Masquerade: known(v.Masquerade), Masquerade6: known(v.Masquerade6)}
		return true
	})
	return rows, err
}

// known is the address of a field in which all zero stands for none.
func known(a abi.Addr) netip.Addr {
	if a == (abi.Addr{}) {
		return netip.Addr{}
	}
	return a.Netip()
}
