package rtnl

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Way is where the routing table sends a packet.
type Way struct {
	Device int
	// Gateway is the next hop; the zero address: the destination itself.
	Gateway netip.Addr
	// Source is the address that this machine's own processes get.
	Source netip.Addr
	// Local says that the packet is for this machine.
	Local bool
}

// WayTo asks for a packet between two addresses that came by a device; 0 and the zero address: this machine sends it.
func WayTo(to, from netip.Addr, by int) (Way, error) {
	options := &netlink.RouteGetOptions{IifIndex: by}
	if from.IsValid() {
		options.SrcAddr = from.AsSlice()
	}
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(), options)
	if err != nil {
		return Way{}, fmt.Errorf("route to %s: %w", to, err)
	}
	if len(routes) == 0 {
		return Way{}, fmt.Errorf("route to %s: %w", to, unix.ENETUNREACH)
	}
	r := routes[0]
	switch r.Type {
	case unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT:
		return Way{}, fmt.Errorf("route to %s: %w", to, unix.EHOSTUNREACH)
	}
	w := Way{Device: r.LinkIndex, Local: r.Type == unix.RTN_LOCAL}
	if a, ok := netip.AddrFromSlice(r.Gw); ok {
		w.Gateway = a.Unmap()
	}
	if a, ok := netip.AddrFromSlice(r.Src); ok {
		w.Source = a.Unmap()
	}
	return w, nil
}

// NoWay says whether an error of [WayTo] means that there is no route, and not that the question could not be asked.
func NoWay(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) ||
		errors.Is(err, unix.EACCES)
}
