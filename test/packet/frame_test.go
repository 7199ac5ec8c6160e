package packet_test

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// frame is an Ethernet frame with an IP packet, by its fields. The zero value
// of a field is a usable default where there is one. The addresses decide the
// family.
type frame struct {
	srcMAC, dstMAC byte // last byte of 02:00:00:00:00:xx
	src, dst       netip.AddrPort
	proto          uint8  // of IPv6 too: IPPROTO_ICMP stands for ICMPv6 there
	flags          uint8  // TCP
	seq, ack       uint32 // TCP
	tcpOptions     []byte // a multiple of 4
	icmp           icmpKind
	about          *frame // an ICMP error: what it quotes
	fragment       uint16 // flags and offset field, as IPv4 has them
	options        int    // bytes of IP options or of a hop-by-hop header
	ttl            uint8  // 0: 64
	payload        string
	raw            []byte // L4, instead of the above
	sums           *frame // the UDP or ICMP checksum is that of this frame
	length         int    // of what follows the IP header, if it is cut
}

const (
	fin = 0x01
	syn = 0x02
	rst = 0x04
	ack = 0x10
)

// six is the address, port or prefix in the IPv6 twin of every test's world.
func six(a netip.Addr) netip.Addr {
	if a == anyIP {
		return netip.IPv6Unspecified()
	}
	if a == loopback {
		return netip.IPv6Loopback()
	}
	b := a.As4()
	return netip.AddrFrom16([16]byte{0: 0xfd, 12: b[0], 13: b[1], 14: b[2], 15: b[3]})
}

func six2(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(six(a.Addr()), a.Port()) }

func sixPrefix(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(six(p.Addr()), 96+p.Bits()) }

// six is the frame's twin of IPv6.
func (f frame) six() frame {
	twin := func(f *frame) *frame {
		if f == nil {
			return nil
		}
		t := f.six()
		return &t
	}
	f.src, f.dst = six2(f.src), six2(f.dst)
	f.about, f.sums = twin(f.about), twin(f.sums)
	return f
}

func (f frame) v6() bool { return f.src.Addr().Is6() }

// protocol is the number in the header.
func (f frame) protocol() uint8 {
	if f.v6() && f.proto == unix.IPPROTO_ICMP {
		return unix.IPPROTO_ICMPV6
	}
	return f.proto
}

// bytes builds the frame with right checksums.
func (f frame) bytes() []byte {
	b := []byte{2, 0, 0, 0, 0, f.dstMAC, 2, 0, 0, 0, 0, f.srcMAC, 8, 0}
	l4 := f.l4()
	if f.v6() {
		b[12], b[13] = 0x86, 0xdd
		return append(append(b, f.header6(len(l4))...), l4...)
	}
	return append(append(b, f.header4(len(l4))...), l4...)
}

func (f frame) hops() byte {
	if f.ttl != 0 {
		return f.ttl
	}
	return 64
}

func (f frame) header4(length int) []byte {
	ip := make([]byte, 20+f.options)
	ip[0] = 0x40 | byte(len(ip)/4)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+length))
	binary.BigEndian.PutUint16(ip[6:], f.fragment)
	ip[8], ip[9] = f.hops(), f.proto
	copy(ip[12:], f.src.Addr().AsSlice())
	copy(ip[16:], f.dst.Addr().AsSlice())
	for i := range f.options {
		ip[20+i] = 1 // no operation
	}
	binary.BigEndian.PutUint16(ip[10:], checksum(0, ip))
	return ip
}

func (f frame) header6(length int) []byte {
	ip := make([]byte, 40)
	ip[0] = 0x60
	ip[6], ip[7] = f.protocol(), f.hops()
	copy(ip[8:], f.src.Addr().AsSlice())
	copy(ip[24:], f.dst.Addr().AsSlice())
	next := 6 // where the next header is named
	if f.options > 0 {
		h := make([]byte, f.options)
		h[0], h[1] = ip[next], byte(f.options/8-1)
		h[2], h[3] = 1, byte(f.options-4) // padding
		ip[next] = unix.IPPROTO_HOPOPTS
		next = len(ip)
		ip = append(ip, h...)
	}
	if f.fragment != 0 {
		h := []byte{ip[next], 0, 0, 0, 0, 0, 0, 9}
		binary.BigEndian.PutUint16(h[2:], f.fragment<<3|f.fragment>>13&1)
		ip[next] = unix.IPPROTO_FRAGMENT
		ip = append(ip, h...)
	}
	binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40+length))
	return ip
}

// l4 is what follows the IP header.
func (f frame) l4() []byte {
	if f.raw != nil {
		return f.raw
	}
	b := f.message()
	if f.sums != nil {
		at := f.sumOffset()
		copy(b[at:at+2], f.sums.message()[at:at+2])
	}
	if f.length > 0 {
		b = b[:f.length]
	}
	return b
}

func (f frame) sumOffset() int {
	switch f.proto {
	case unix.IPPROTO_TCP:
		return 16
	case unix.IPPROTO_UDP:
		return 6
	}
	return 2
}

func (f frame) message() []byte {
	var h []byte
	switch f.proto {
	case unix.IPPROTO_TCP:
		h = make([]byte, 20)
		binary.BigEndian.PutUint32(h[4:], f.seq)
		binary.BigEndian.PutUint32(h[8:], f.ack)
		h = append(h, f.tcpOptions...)
		h[12], h[13] = byte(len(h)/4)<<4, f.flags
	case unix.IPPROTO_UDP:
		h = make([]byte, 8)
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(f.payload)))
	case unix.IPPROTO_ICMP:
		h = f.icmpHeader()
	}
	h = append(h, f.payload...)
	at := f.sumOffset()
	if f.proto == unix.IPPROTO_ICMP && !f.v6() {
		binary.BigEndian.PutUint16(h[at:], checksum(0, h))
		return h
	}
	if f.proto != unix.IPPROTO_ICMP {
		binary.BigEndian.PutUint16(h[0:], f.src.Port())
		binary.BigEndian.PutUint16(h[2:], f.dst.Port())
	}
	pseudo := uint32(f.protocol()) + uint32(len(h)) + sum(f.src.Addr().AsSlice()) + sum(f.dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(h[at:], checksum(pseudo, h))
	return h
}

func (f frame) icmpHeader() []byte {
	family := 0
	if f.v6() {
		family = 1
	}
	h := make([]byte, 8)
	h[0], h[1] = f.icmp[family][0], f.icmp[family][1]
	if f.about == nil {
		binary.BigEndian.PutUint16(h[4:], max(f.src.Port(), f.dst.Port()))
		return h
	}
	if f.icmp == tooLarge {
		binary.BigEndian.PutUint16(h[6:], 1400)
	}
	// The IP header and eight bytes.
	return append(h, f.about.bytes()[14:][:[2]int{28, 48}[family]]...)
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

// icmpKind is a type and code of ICMP, and the same of ICMPv6.
type icmpKind [2][2]uint8

var (
	echoRequest     = icmpKind{{8, 0}, {128, 0}}
	echoAnswer      = icmpKind{{0, 0}, {129, 0}}
	portUnreachable = icmpKind{{3, 3}, {1, 4}}
	tooLarge        = icmpKind{{3, 4}, {2, 0}}
	expired         = icmpKind{{11, 0}, {3, 0}}
)

// report is the ICMP error that a machine sends about a frame.
func report(kind icmpKind, from, to netip.Addr, about frame) frame {
	return frame{src: at(from, 0), dst: at(to, 0), proto: unix.IPPROTO_ICMP, icmp: kind, about: &about}
}

// unreachable is the ICMP error about a datagram that nobody takes.
func unreachable(from, to netip.Addr, about frame) frame {
	return report(portUnreachable, from, to, about)
}

// summedAs gives f the UDP or ICMP checksum of another frame: of what is
// quoted, sums are left as they are.
func (f frame) summedAs(other frame) frame {
	f.sums = &other
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
	return frame{src: src, dst: dst, proto: unix.IPPROTO_ICMP, icmp: echoRequest, payload: "ping"}
}

func echoReply(src, dst netip.AddrPort) frame {
	f := echo(src, dst)
	f.icmp = echoAnswer
	return f
}
