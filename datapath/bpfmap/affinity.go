package bpfmap

import (
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
)

// Affinity returns the backend that a client of a Service with affinity has, and whether it has one. The zero address is this node.
func (m *Maps) Affinity(client netip.Addr, service uint32) (abi.Affinity, bool, error) {
	return m.affinity.get(affinityKey(client, service))
}

// PutAffinity gives it that backend. The programs are the writers; this undoes what they wrote for a packet that nobody sent.
func (m *Maps) PutAffinity(client netip.Addr, service uint32, a abi.Affinity) error {
	return m.affinity.put(affinityKey(client, service), a)
}

// DeleteAffinity forgets it; a missing one is no error.
func (m *Maps) DeleteAffinity(client netip.Addr, service uint32) error {
	return m.affinity.delete(affinityKey(client, service))
}

func affinityKey(client netip.Addr, service uint32) abi.AffinityKey {
	return abi.AffinityKey{Client: abi.AddrFrom(client), Service: service}
}
