package abi

import (
	"encoding/binary"
	"net/netip"
)

// NewConntrackKey makes the key of a flow from its two ends, in either order,
// and tells at which index src is. The order is the one of end_above in
// bpf/lib/conntrack.h.
func NewConntrackKey(src, dst netip.AddrPort, proto uint8) (key ConntrackKey, from int) {
	a, b := AddrFrom(src.Addr()), AddrFrom(dst.Addr())
	aport, bport := Port(src.Port()), Port(dst.Port())
	if endAbove(a, aport, b, bport) {
		a, b, aport, bport, from = b, a, bport, aport, 1
	}
	return ConntrackKey{Addr: [2]Addr{a, b}, Port: [2]uint16{aport, bport}, Proto: proto}, from
}

func endAbove(a Addr, aport uint16, b Addr, bport uint16) bool {
	for i := 12; i >= 0; i -= 4 {
		aw, bw := binary.NativeEndian.Uint32(a.Bytes[i:]), binary.NativeEndian.Uint32(b.Bytes[i:])
		if aw != bw {
			return aw > bw
		}
	}
	return aport > bport
}

// End is the address and port at an index of the key.
func (k netdevConntrackKey) End(i int) netip.AddrPort {
	return netip.AddrPortFrom(k.Addr[i].Netip(), HostPort(k.Port[i]))
}

// From is the index in a key of the end that began the flow.
func (c netdevConntrack) From() int { return int(c.Flags & CTFromHigh) }

// Translated tells whether the flow looks different on its other side, where
// it has a second entry.
func (c netdevConntrack) Translated() bool { return c.Flags&(CTRewriteSrc|CTRewriteDst) != 0 }

// Other is the key of the entry at the other side of a translated flow.
func (c netdevConntrack) Other(k ConntrackKey) ConntrackKey {
	from := c.From()
	// The entry rewrites packets of its own side only: of the beginner, or,
	// at the reply side, of the one who answers.
	if c.Flags&CTReplySide != 0 {
		from = 1 - from
	}
	src, dst := k.End(from), k.End(1-from)
	if c.Flags&CTRewriteSrc != 0 {
		src = netip.AddrPortFrom(c.Src.Netip(), HostPort(c.Sport))
	}
	if c.Flags&CTRewriteDst != 0 {
		dst = netip.AddrPortFrom(c.Dst.Netip(), HostPort(c.Dport))
	}
	other, _ := NewConntrackKey(src, dst, k.Proto)
	return other
}
