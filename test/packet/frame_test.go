package packet_test

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// frame is an Ethernet frame with an IPv4 packet, by its fields. The zero
// value of a field is a usable default where there is one.
type frame struct {
	srcMAC, dstMAC byte // last byte of 02:00:00:00:00:xx
	src, dst       netip.AddrPort
	proto          uint8
	flags          uint8  // TCP
	seq, ack       uint32 // TCP
	icmp           [2]uint8
	fragment       uint16 // flags and offset field
	ttl            uint8  // 0: 64
	payload        string
	raw            []byte // L4, instead of the above
}

const (
	fin = 0x01
	syn = 0x02
	rst = 0x04
	ack = 0x10
)

// bytes builds the frame with right checksums.
func (f frame) bytes() []byte {
	b := []byte{2, 0, 0, 0, 0, f.dstMAC, 2, 0, 0, 0, 0, f.srcMAC, 8, 0}
	l4 := f.l4()
	ip := make([]byte, 20)
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)))
	binary.BigEndian.PutUint16(ip[6:], f.fragment)
	ip[8] = 64
	if f.ttl != 0 {
		ip[8] = f.ttl
	}
	ip[9] = f.proto
	copy(ip[12:], f.src.Addr().AsSlice())
	copy(ip[16:], f.dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(0, ip))
	return append(append(b, ip...), l4...)
}

func (f frame) l4() []byte {
	if f.raw != nil {
		return f.raw
	}
	var h []byte
	at := 0 // of the checksum
	switch f.proto {
	case unix.IPPROTO_TCP:
		h, at = make([]byte, 20), 16
		binary.BigEndian.PutUint32(h[4:], f.seq)
		binary.BigEndian.PutUint32(h[8:], f.ack)
		h[12], h[13] = 5<<4, f.flags
	case unix.IPPROTO_UDP:
		h, at = make([]byte, 8), 6
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(f.payload)))
	case unix.IPPROTO_ICMP:
		h, at = make([]byte, 8), 2
		h[0], h[1] = f.icmp[0], f.icmp[1]
		binary.BigEndian.PutUint16(h[4:], max(f.src.Port(), f.dst.Port()))
	}
	h = append(h, f.payload...)
	if f.proto == unix.IPPROTO_ICMP {
		binary.BigEndian.PutUint16(h[at:], checksum(0, h))
		return h
	}
	binary.BigEndian.PutUint16(h[0:], f.src.Port())
	binary.BigEndian.PutUint16(h[2:], f.dst.Port())
	pseudo := uint32(f.proto) + uint32(len(h)) + sum(f.src.Addr().AsSlice()) + sum(f.dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(h[at:], checksum(pseudo, h))
	return h
}

func sum(b []byte) (s uint32) {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	return s
}

func checksum(start uint32, b []byte) uint16 {
	s := start + sum(b)
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

// ICMP errors by type and code.
var (
	portUnreachable = [2]uint8{3, 3}
	tooLarge        = [2]uint8{3, 4}
	expired         = [2]uint8{11, 0}
)

// report is the ICMP error that a machine sends about a frame.
func report(kind [2]uint8, from, to netip.Addr, about frame) frame {
	quote := about.bytes()[14:42]
	raw := append([]byte{kind[0], kind[1], 0, 0, 0, 0, 0, 0}, quote...)
	if kind == tooLarge {
		binary.BigEndian.PutUint16(raw[6:], 1400)
	}
	binary.BigEndian.PutUint16(raw[2:], checksum(0, raw))
	return frame{src: at(from, 0), dst: at(to, 0), proto: unix.IPPROTO_ICMP, raw: raw}
}

// unreachable is the ICMP error about a datagram that nobody takes.
func unreachable(from, to netip.Addr, about frame) frame {
	return report(portUnreachable, from, to, about)
}

// summedAs gives f the UDP or ICMP checksum of another frame: of what is
// quoted, sums are left as they are.
func (f frame) summedAs(other frame) frame {
	at := 6
	if f.proto == unix.IPPROTO_ICMP {
		at = 2
	}
	f.raw = f.l4()
	copy(f.raw[at:at+2], other.l4()[at:at+2])
	return f
}

// macs sets the addresses of the frame's link.
func (f frame) macs(src, dst byte) frame {
	f.srcMAC, f.dstMAC = src, dst
	return f
}

func tcpFrame(src, dst netip.AddrPort, flags uint8) frame {
	return frame{src: src, dst: dst, proto: unix.IPPROTO_TCP, flags: flags, seq: 100}
}

func udpFrame(src, dst netip.AddrPort) frame {
	return frame{src: src, dst: dst, proto: unix.IPPROTO_UDP, payload: "payload"}
}

// echo is an ICMP echo request; the requester's port is its id.
func echo(src, dst netip.AddrPort) frame {
	return frame{src: src, dst: dst, proto: unix.IPPROTO_ICMP, icmp: [2]uint8{8, 0}, payload: "ping"}
}

func echoReply(src, dst netip.AddrPort) frame {
	f := echo(src, dst)
	f.icmp[0] = 0
	return f
}
