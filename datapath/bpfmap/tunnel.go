package bpfmap

import (
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/desired"
)

// Tunnels is the table of other nodes' pods that are reached through the tunnel.
type Tunnels struct{ maps *Maps }

// Tunnels returns the table of other nodes' pods that are reached through the tunnel.
func (m *Maps) Tunnels() Tunnels { return Tunnels{m} }

// Put writes the row of a range of pod addresses.
func (t Tunnels) Put(pods netip.Prefix, to desired.Tunnel) error {
	return t.maps.tunnel.put(tunnelKey(pods), abi.Tunnel{Node: abi.AddrFrom(to.Node), Mtu: uint32(to.MTU)})
}

// Delete removes the row of a range.
func (t Tunnels) Delete(pods netip.Prefix) error { return t.maps.tunnel.delete(tunnelKey(pods)) }

// List returns all rows.
func (t Tunnels) List() (map[netip.Prefix]desired.Tunnel, error) {
	rows := map[netip.Prefix]desired.Tunnel{}
	err := t.maps.tunnel.each(func(k abi.TunnelKey, v abi.Tunnel) bool {
		rows[prefixOf(k.Addr, int(k.Prefix))] = desired.Tunnel{Node: v.Node.Netip(), MTU: int(v.Mtu)}
		return true
	})
	return rows, err
}

func tunnelKey(pods netip.Prefix) abi.TunnelKey {
	bits := pods.Bits()
	if pods.Addr().Is4() {
		bits += v4Bits
	}
	return abi.TunnelKey{Prefix: uint32(bits), Addr: abi.AddrFrom(pods.Masked().Addr())}
}
