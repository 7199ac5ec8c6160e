package kernel

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// The ends of a look-up: a pod and the node's server.
var (
	pod, pod6       = netip.MustParseAddr("10.244.0.9"), netip.MustParseAddr("fd00:244::9")
	router, router6 = netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr("fd00:244::1")
)

// The MAC addresses of the pod and of the node's side.
var podMAC, hostMAC = [6]byte{2, 0, 0, 0, 0, 0xa}, [6]byte{2, 0, 0, 0, 0, 1}

const (
	ethernet = 14
	udp      = 8
)

// frame is the query as the pod sends it.
func frame(query []byte, six bool) []byte {
	src, dst, head := pod, router, 20
	b := slices.Concat(hostMAC[:], podMAC[:], []byte{8, 0})
	if six {
		src, dst, head = pod6, router6, 40
		b[12], b[13] = 0x86, 0xdd
	}
	n := udp + len(query)
	ip := make([]byte, head)
	if six {
		ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_UDP, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(n))
	} else {
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(ip[2:], uint16(head+n))
	}
	addrs := append(src.AsSlice(), dst.AsSlice()...)
	copy(ip[head-len(addrs):], addrs)
	if !six {
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	}
	datagram := make([]byte, udp, n)
	binary.BigEndian.PutUint16(datagram, 40000)
	binary.BigEndian.PutUint16(datagram[2:], 53)
	binary.BigEndian.PutUint16(datagram[4:], uint16(n))
	datagram = append(datagram, query...)
	sum := checksum(pseudo(addrs, datagram))
	binary.BigEndian.PutUint16(datagram[6:], sum)
	if sum == 0 {
		binary.BigEndian.PutUint16(datagram[6:], 0xffff)
	}
	return slices.Concat(b, ip, datagram)
}

// pseudo is what a UDP checksum is over.
func pseudo(addrs, datagram []byte) []byte {
	return slices.Concat(addrs, []byte{0, unix.IPPROTO_UDP, byte(len(datagram) >> 8), byte(len(datagram))}, datagram)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// message is what an answer's frame says, after its headers are found right.
func message(t testing.TB, b []byte, six bool) []byte {
	t.Helper()
	src, dst, head := router, pod, 20
	if six {
		src, dst, head = router6, pod6, 40
	}
	if len(b) < ethernet+head+udp || !bytes.Equal(b[:6], podMAC[:]) || !bytes.Equal(b[6:12], hostMAC[:]) {
		t.Fatalf("frame % x", b)
	}
	ip, datagram := b[ethernet:ethernet+head], b[ethernet+head:]
	addrs := append(src.AsSlice(), dst.AsSlice()...)
	if !bytes.Equal(ip[head-len(addrs):], addrs) {
		t.Fatalf("addresses in % x", ip)
	}
	length := int(binary.BigEndian.Uint16(ip[4:]))
	if !six {
		length = int(binary.BigEndian.Uint16(ip[2:])) - head
		if checksum(ip) != 0 {
			t.Fatalf("checksum in % x", ip)
		}
	}
	if length != len(datagram) || int(binary.BigEndian.Uint16(datagram[4:])) != length {
		t.Fatalf("length %d of % x", length, datagram)
	}
	if binary.BigEndian.Uint16(datagram) != 53 || binary.BigEndian.Uint16(datagram[2:]) != 40000 {
		t.Fatalf("ports in % x", datagram)
	}
	if binary.BigEndian.Uint16(datagram[6:]) == 0 || checksum(pseudo(addrs, datagram)) != 0 {
		t.Fatalf("checksum in % x", datagram)
	}
	return datagram[udp:]
}
