package abi

import (
	"net/netip"
	"testing"
)

// TestOtherIsMutual: each side of a translated flow names the other one.
func TestOtherIsMutual(t *testing.T) {
	const tcp = 6
	client := netip.MustParseAddrPort("192.0.2.2:40000")
	front := netip.MustParseAddrPort("192.0.2.1:30080")
	backend := netip.MustParseAddrPort("10.244.0.2:80")
	first, from := NewConntrackKey(client, front, tcp)
	reply, back := NewConntrackKey(client, backend, tcp)
	begun := Conntrack{
		Flags: CTRewriteDst | ConntrackFlag(from),
		Dst:   AddrFrom(backend.Addr()), Dport: Port(backend.Port()),
	}
	answered := Conntrack{
		Flags: CTReplySide | CTRewriteSrc | ConntrackFlag(back),
		Src:   AddrFrom(front.Addr()), Sport: Port(front.Port()),
	}
	if got := begun.Other(first); got != reply {
		t.Errorf("other side of the beginner's entry is %v, want %v", got, reply)
	}
	if got := answered.Other(reply); got != first {
		t.Errorf("other side of the answering entry is %v, want %v", got, first)
	}
}

func TestKeyIsTheSameInBothDirections(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.1:9"), netip.MustParseAddrPort("10.0.0.1:10")
	there, from := NewConntrackKey(a, b, 17)
	back, to := NewConntrackKey(b, a, 17)
	if there != back || from == to {
		t.Errorf("keys %v and %v, sources at %d and %d", there, back, from, to)
	}
	if there.End(from) != a || there.End(to) != b {
		t.Errorf("ends %v and %v", there.End(from), there.End(to))
	}
}

func TestNames(t *testing.T) {
	names, err := ReadNames()
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range append(names.Reasons, names.Places...) {
		if name == "" {
			t.Errorf("name %d is empty", i)
		}
	}
	if names.Reasons[4] != "no_backend" || names.Places[1] != "from_pod" {
		t.Errorf("names %v", names)
	}
}
