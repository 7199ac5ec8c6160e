package bpfmap

import (
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/desired"
)

// EndpointPolicy is what the row of a pod of this node says about policies: numbers of its identity and of the sets that isolate
// it, 0 where none does.
type EndpointPolicy struct{ Identity, Egress, Ingress uint32 }

// Isolated says whether there is a set in either direction.
func (p EndpointPolicy) Isolated() bool { return p.Egress != 0 || p.Ingress != 0 }

// EndpointPolicies returns the policies of all pods of this node.
func (m *Maps) EndpointPolicies() (map[netip.Addr]EndpointPolicy, error) {
	rows := map[netip.Addr]EndpointPolicy{}
	err := m.endpoint.each(func(k abi.Addr, v abi.Endpoint) bool {
		rows[k.Netip()] = policyOf(v)
		return true
	})
	return rows, err
}

func policyOf(v abi.Endpoint) EndpointPolicy {
	return EndpointPolicy{Identity: v.Identity, Egress: v.Egress, Ingress: v.Ingress}
}

// SetEndpointPolicy changes the policies of a pod. It returns false if the address has no row. Whoever writes endpoints at the
// same time must hold the same lock.
func (m *Maps) SetEndpointPolicy(a netip.Addr, p EndpointPolicy) (bool, error) {
	row, ok, err := m.endpoint.get(abi.AddrFrom(a))
	if err != nil || !ok {
		return false, err
	}
	row.Identity, row.Egress, row.Ingress = p.Identity, p.Egress, p.Ingress
	return true, m.endpoint.put(abi.AddrFrom(a), row)
}

// SetIsolation tells the programs whether any pod of this node is isolated: if none is, flows begin without a look at policies.
func (m *Maps) SetIsolation(on bool) error {
	return m.changeControl(func(c *abi.Control) {
		c.Isolation = 0
		if on {
			c.Isolation = 1
		}
	})
}

// Isolation returns what SetIsolation set.
func (m *Maps) Isolation() (bool, error) {
	row, _, err := m.control.get(0)
	return row.Isolation != 0, err
}

// PutIdentity gives a pod's address its identity.
func (m *Maps) PutIdentity(a netip.Addr, identity uint32) error {
	return m.identity.put(abi.AddrFrom(a), identity)
}

// DeleteIdentity takes an address its identity away.
func (m *Maps) DeleteIdentity(a netip.Addr) error { return m.identity.delete(abi.AddrFrom(a)) }

// Identities returns the identities of all addresses.
func (m *Maps) Identities() (map[netip.Addr]uint32, error) {
	rows := map[netip.Addr]uint32{}
	err := m.identity.each(func(k abi.Addr, v uint32) bool {
		rows[k.Netip()] = v
		return true
	})
	return rows, err
}

// PolicyKey names what a policy set allows whom: a peer, or a block of addresses where that is valid.
type PolicyKey struct {
	Set   uint32
	Peer  uint32
	Block netip.Prefix
}

// PutPolicy writes which set of ports a peer or a block may reach.
func (m *Maps) PutPolicy(k PolicyKey, ports uint32) error {
	if k.Block.IsValid() {
		return m.cidr.put(cidrKey(k), abi.PolicyPorts(ports))
	}
	return m.policy.put(abi.PolicyKey{Set: k.Set, Peer: abi.PolicyPeer(k.Peer)}, abi.PolicyPorts(ports))
}

// DeletePolicy removes a row.
func (m *Maps) DeletePolicy(k PolicyKey) error {
	if k.Block.IsValid() {
		return m.cidr.delete(cidrKey(k))
	}
	return m.policy.delete(abi.PolicyKey{Set: k.Set, Peer: abi.PolicyPeer(k.Peer)})
}

// PolicyRows returns all rows with their sets of ports.
func (m *Maps) PolicyRows() (map[PolicyKey]uint32, error) {
	rows := map[PolicyKey]uint32{}
	err := m.policy.each(func(k abi.PolicyKey, v abi.PolicyPorts) bool {
		rows[PolicyKey{Set: k.Set, Peer: uint32(k.Peer)}] = uint32(v)
		return true
	})
	if err != nil {
		return nil, err
	}
	err = m.cidr.each(func(k abi.CIDRKey, v abi.PolicyPorts) bool {
		rows[PolicyKey{Set: k.Set, Block: blockOf(k)}] = uint32(v)
		return true
	})
	return rows, err
}

// The kernel's prefixes are of the set and the 16 bytes of the address; an IPv4 address is their last four.
const (
	setBits = 32
	v4Bits  = 96
)

func cidrKey(k PolicyKey) abi.CIDRKey {
	bits := setBits + k.Block.Bits()
	if k.Block.Addr().Is4() {
		bits += v4Bits
	}
	return abi.CIDRKey{Bits: uint32(bits), Set: k.Set, Addr: abi.AddrFrom(k.Block.Masked().Addr())}
}

func blockOf(k abi.CIDRKey) netip.Prefix { return prefixOf(k.Addr, int(k.Bits)-setBits) }

// prefixOf is the prefix of an address of 16 bytes.
func prefixOf(addr abi.Addr, bits int) netip.Prefix {
	a := addr.Netip()
	if a.Is4() && bits >= v4Bits {
		return netip.PrefixFrom(a, bits-v4Bits)
	}
	return netip.PrefixFrom(netip.AddrFrom16(addr.Bytes), bits)
}

// PutPorts writes a set of ports.
func (m *Maps) PutPorts(id uint32, ports desired.Ports) error {
	for _, p := range ports.Prefixes() {
		if err := m.ports.put(portKey(id, p), 1); err != nil {
			return err
		}
	}
	return nil
}

// DeletePorts removes a set of ports.
func (m *Maps) DeletePorts(id uint32, ports desired.Ports) error {
	for _, p := range ports.Prefixes() {
		if err := m.ports.delete(portKey(id, p)); err != nil {
			return err
		}
	}
	return nil
}

// Ports returns all sets of ports by their ids.
func (m *Maps) Ports() (map[uint32]desired.Ports, error) {
	prefixes := map[uint32][]desired.PortPrefix{}
	err := m.ports.each(func(k abi.PortKey, _ uint32) bool {
		prefixes[k.Set] = append(prefixes[k.Set], desired.PortPrefix{
			Protocol: desired.Protocol(k.Proto), First: abi.HostPort(k.Port), Bits: int(k.Bits) - portFixedBits,
		})
		return true
	})
	sets := map[uint32]desired.Ports{}
	for id, p := range prefixes {
		sets[id] = desired.PortsOf(p)
	}
	return sets, err
}

// portFixedBits are those of the id and the protocol.
const portFixedBits = 48

func portKey(id uint32, p desired.PortPrefix) abi.PortKey {
	return abi.PortKey{Bits: uint32(portFixedBits + p.Bits), Set: id, Proto: uint8(p.Protocol), Port: abi.Port(p.First)}
}

// PortsOf returns the set of ports that an id in the tables of policies stands for; named are those that have an id of their own.
func PortsOf(id uint32, named map[uint32]desired.Ports) desired.Ports {
	switch id {
	case uint32(abi.PortsNone):
		return ""
	case uint32(abi.PortsAll):
		return desired.AllPorts
	}
	return named[id]
}
