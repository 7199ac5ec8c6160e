package packet_test

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
)

// TestDatagramsOfOneSocket: a socket that is not connected sees each Service
// answer as itself, and keeps to one backend of it while that serves.
func TestDatagramsOfOneSocket(t *testing.T) {
	w := newWorld(t)
	a, b, out := w.pod("a", podA), w.pod("b", podB), w.outside()
	w.serveUDP(b, "b", at(podB, 80))
	w.serveUDP(b, "b2", at(podB, 81))
	w.serveUDP(out, "out", at(clientIP, 80))
	w.service(udp(1, list(at(vip, 53)), list(at(podB, 80), at(podB, 81))))
	w.service(udp(2, list(at(vip, 54)), list(at(podB, 80))))
	w.service(udp(3, list(at(vip, 55)), nil))
	w.in(a, func() {
		w.translated(func() {
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: podA.AsSlice()})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			first := exchange(t, c, at(vip, 53))
			for range 10 {
				if got := exchange(t, c, at(vip, 53)); got != first {
					t.Errorf("answer of %q after %q: the backend changed", got, first)
				}
				exchange(t, c, at(vip, 54))
				exchange(t, c, at(clientIP, 80))
			}
			// A backend that is taken away is left with the next datagram.
			left := map[string]netip.AddrPort{"b": at(podB, 81), "b2": at(podB, 80)}[strings.Fields(first)[0]]
			w.row(abi.MapSlot, abi.SlotKey{Service: 1}, abi.Backend{Addr: abi.AddrFrom(left.Addr()), Port: abi.Port(left.Port())})
			w.row(abi.MapService, uint32(1), abi.Service{Backends: 1, Revision: 2})
			if got := exchange(t, c, at(vip, 53)); got == first {
				t.Errorf("%q answers, which serves no more", got)
			}
			// Before 5.18 the kernel has but one word for no.
			if _, err := c.WriteToUDPAddrPort([]byte("x"), at(vip, 55)); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EPERM) {
				t.Errorf("datagram to a Service without endpoints: %v, want connection refused", err)
			}
		})
	})
}

// exchange sends a datagram and wants the answer to come from where it went.
func exchange(t *testing.T, c *net.UDPConn, to netip.AddrPort) string {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte("hello"), to); err != nil {
		t.Errorf("%s: %v", to, err)
		return ""
	}
	buf := make([]byte, 100)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil || from != to {
		t.Errorf("%s: answer from %s, %v", to, from, err)
	}
	return string(buf[:n])
}

// TestMappedAddress: a socket of family AF_INET6 reaches a Service by its
// IPv4-mapped address.
func TestMappedAddress(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", podA), w.pod("b", podB)
	w.serveTCP(b, "b", at(podB, 80))
	w.service(tcp(1, list(at(vip, 80)), list(at(podB, 80))))
	w.service(tcp(2, list(at(vip, 81)), nil))
	w.in(a, func() {
		w.translated(func() {
			if peer, err := dial6(at(vip, 80)); err != nil || peer != at(vip, 80) {
				t.Errorf("peer %s, %v, want %s", peer, err, at(vip, 80))
			}
			if _, err := dial6(at(vip, 81)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("no endpoints: %v, want connection refused", err)
			}
		})
	})
}

// dial6 connects by the mapped address and tells the peer as it is shown.
func dial6(to netip.AddrPort) (netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}); err != nil {
		return netip.AddrPort{}, err
	}
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	peer := sa.(*unix.SockaddrInet6)
	return netip.AddrPortFrom(netip.AddrFrom16(peer.Addr).Unmap(), uint16(peer.Port)), nil
}
