package reconcile

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/podnet"
)

// Headers of a datagram, in bytes.
const (
	ip4Header = 20
	ip6Header = 40
	udpHeader = 8
)

// Probe sends a node a datagram of that many bytes that nobody may cut. If it is too large for a link on the way, the router
// there says so, and the kernel remembers: the next [Routes.Path] tells. It goes where the tunnel's packets go, and is none of them:
// the other node ignores it.
func (Routes) Probe(a netip.Addr, size int) error {
	header, level, option := ip4Header, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if a.Is6() {
		header, level, option = ip6Header, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, podnet.OverlayPort)))
	if err != nil {
		return fmt.Errorf("probe %s: %w", a, err)
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, unix.IP_PMTUDISC_DO) })
	if err := errors.Join(err, set); err != nil {
		return fmt.Errorf("probe %s: %w", a, err)
	}
	// What the kernel knows to be too large already, and a node that is down, are no errors of ours.
	_, err = c.Write(make([]byte, max(0, size-header-udpHeader)))
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) {
		return nil
	}
	return err
}
