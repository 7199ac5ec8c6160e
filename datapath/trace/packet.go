package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/skep-io/skep/datapath/desired"
)

// TCP flags of the packets that are sent.
const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// Packet is a packet of a trace: a TCP segment that opens a connection or answers that, or a datagram of one byte.
type Packet struct {
	SourceMAC, TargetMAC [6]byte
	Source, Target       netip.AddrPort
	Protocol             desired.Protocol
	// Flags are TCP's.
	Flags byte
	// Other is the protocol of what is neither, as ICMP answers are; Source and Target have no ports then.
	Other byte
}

// String is protocol, source and target.
func (p Packet) String() string {
	if p.Other != 0 {
		return fmt.Sprintf("ICMP %s > %s", p.Source.Addr(), p.Target.Addr())
	}
	s := fmt.Sprintf("%s %s > %s", p.Protocol, p.Source, p.Target)
	switch {
	case p.Protocol != desired.TCP:
	case p.Flags&flagRST != 0:
		s += " RST"
	case p.Flags&flagACK != 0:
		s += " SYN,ACK"
	case p.Flags&flagSYN != 0:
		s += " SYN"
	}
	return s
}

// reply is the packet that answers.
func (p Packet) reply() Packet {
	p.Source, p.Target = p.Target, p.Source
	p.SourceMAC, p.TargetMAC = p.TargetMAC, p.SourceMAC
	if p.Protocol == desired.TCP {
		p.Flags = flagSYN | flagACK
	}
	return p
}

// sameEnds says whether two packets have the same addresses and ports.
func (p Packet) sameEnds(o Packet) bool { return p.Source == o.Source && p.Target == o.Target }

// frame is the packet on an Ethernet, with right checksums.
func (p Packet) frame() []byte {
	l4 := p.segment()
	b := append(append([]byte{}, p.TargetMAC[:]...), p.SourceMAC[:]...)
	src, dst := p.Source.Addr(), p.Target.Addr()
	var ip []byte
	if src.Is4() {
		b = append(b, 0x08, 0x00)
		ip = make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, byte(p.Protocol)
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)))
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip))
	} else {
		b = append(b, 0x86, 0xdd)
		ip = make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, byte(p.Protocol), 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
		copy(ip[8:], src.AsSlice())
		copy(ip[24:], dst.AsSlice())
	}
	return append(append(b, ip...), l4...)
}

// segment is what follows the IP header.
func (p Packet) segment() []byte {
	var l4 []byte
	at := 16 // of the checksum
	if p.Protocol == desired.TCP {
		l4 = make([]byte, 20)
		binary.BigEndian.PutUint32(l4[4:], 1)
		l4[12], l4[13] = 5<<4, p.Flags
		binary.BigEndian.PutUint16(l4[14:], 0xffff)
	} else {
		l4, at = make([]byte, 9), 6
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	binary.BigEndian.PutUint16(l4, p.Source.Port())
	binary.BigEndian.PutUint16(l4[2:], p.Target.Port())
	pseudo := uint32(p.Protocol) + uint32(len(l4))
	pseudo += uint32(sum(0, p.Source.Addr().AsSlice())) + uint32(sum(0, p.Target.Addr().AsSlice()))
	c := ^sum(pseudo, l4)
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], c)
	return l4
}

// sum adds up 16-bit words with the carry added in again.
func sum(start uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		start += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		start += uint32(b[0]) << 8
	}
	for start > 0xffff {
		start = start>>16 + start&0xffff
	}
	return uint16(start)
}

var errFrame = errors.New("a program made something of the packet that is none")

// parse reads a frame that a program gave back.
func parse(b []byte) (Packet, error) {
	var p Packet
	if len(b) < 14+20 {
		return p, errFrame
	}
	copy(p.TargetMAC[:], b)
	copy(p.SourceMAC[:], b[6:])
	ip := b[14:]
	var src, dst netip.Addr
	var proto byte
	var l4 []byte
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0800:
		header := int(ip[0]&0xf) * 4
		if len(ip) < header {
			return p, errFrame
		}
		src, _ = netip.AddrFromSlice(ip[12:16])
		dst, _ = netip.AddrFromSlice(ip[16:20])
		proto, l4 = ip[9], ip[header:]
	case 0x86dd:
		if len(ip) < 40 {
			return p, errFrame
		}
		src, _ = netip.AddrFromSlice(ip[8:24])
		dst, _ = netip.AddrFromSlice(ip[24:40])
		proto, l4 = ip[6], ip[40:]
	default:
		return p, errFrame
	}
	p.Protocol = desired.Protocol(proto)
	if p.Protocol != desired.TCP && p.Protocol != desired.UDP {
		p.Other = proto
		p.Source, p.Target = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
		return p, nil
	}
	if len(l4) < 8 {
		return p, errFrame
	}
	p.Source = netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4))
	p.Target = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:]))
	if p.Protocol == desired.TCP && len(l4) > 13 {
		p.Flags = l4[13]
	}
	return p, nil
}
