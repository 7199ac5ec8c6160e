package bpfmap

import (
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
)

// Flow is one entry of the flow table. A translated flow has two, one for each of its sides.
type Flow struct {
	Key   abi.ConntrackKey
	Value abi.Conntrack
}

// Ends returns the two ends as packets show them, the one that began the flow first.
func (f Flow) Ends() (from, to netip.AddrPort) {
	i := f.Value.From()
	return f.Key.End(i), f.Key.End(1 - i)
}

// Touches says whether one of the addresses of the flow is wanted, as its packets show them or as they are rewritten.
func (f Flow) Touches(wanted map[netip.Addr]struct{}) bool {
	if len(wanted) == 0 {
		return false
	}
	has := func(a abi.Addr) bool {
		_, ok := wanted[a.Netip()]
		return ok
	}
	return has(f.Key.Addr[0]) || has(f.Key.Addr[1]) ||
		f.Value.Flags&abi.CTRewriteSrc != 0 && has(f.Value.Src) ||
		f.Value.Flags&(abi.CTRewriteDst|abi.CTDirect) != 0 && has(f.Value.Dst)
}

// Backend returns the address and port that serve the flow of a Service, and whether the flow is one.
func (f Flow) Backend() (netip.AddrPort, bool) {
	switch {
	case f.Value.Flags&abi.CTDirect != 0:
		return netip.AddrPortFrom(f.Value.Dst.Netip(), abi.HostPort(f.Value.Dport)), true
	case !f.Value.Translated():
		return netip.AddrPort{}, false
	case f.Value.Flags&abi.CTReplySide != 0:
		_, to := f.Ends()
		return to, true
	case f.Value.Flags&abi.CTRewriteDst != 0:
		return netip.AddrPortFrom(f.Value.Dst.Netip(), abi.HostPort(f.Value.Dport)), true
	}
	return netip.AddrPort{}, false
}

// Flows calls fn for every flow until it returns false. Flows that begin or end meanwhile may be seen or not.
func (m *Maps) Flows(fn func(Flow) bool) error {
	return m.conntrack.each(func(k abi.ConntrackKey, v abi.Conntrack) bool { return fn(Flow{k, v}) })
}

// Flow returns the flow with that key and whether there is one.
func (m *Maps) Flow(key abi.ConntrackKey) (Flow, bool, error) {
	v, ok, err := m.conntrack.get(key)
	return Flow{key, v}, ok, err
}

// PutFlow writes a flow. The programs are the writers; this is for tests.
func (m *Maps) PutFlow(f Flow) error { return m.conntrack.put(f.Key, f.Value) }

// DeleteFlow removes a flow; one that is gone is no error.
func (m *Maps) DeleteFlow(key abi.ConntrackKey) error { return m.conntrack.delete(key) }
