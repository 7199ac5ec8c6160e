package reconcile

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/skep-io/skep/datapath/rtnl"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/desired"
)

// peerProtocol marks the routes to other nodes' pods, so that they are known after a restart and nobody else's are touched.
const peerProtocol = 84

// Routes is the kernel's table of routes to other nodes' pods, in the network namespace of the caller. It believes nothing: a
// device that goes down takes its routes along, so the kernel is asked each time.
type Routes struct{}

// Apply makes exactly the wanted routes exist.
func (t Routes) Apply(want map[netip.Prefix]desired.Route) error {
	have, err := t.List()
	if err != nil {
		return err
	}
	var errs []error
	for dst, route := range want {
		if have[dst] == route {
			continue
		}
		if err := netlink.RouteReplace(kernelRoute(dst, route)); err != nil {
			errs = append(errs, fmt.Errorf("route %s by %s: %w", dst, route.Gateway, err))
		}
	}
	for dst, route := range have {
		if _, wanted := want[dst]; wanted {
			continue
		}
		if err := netlink.RouteDel(kernelRoute(dst, route)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s: %w", dst, err))
		}
	}
	return errors.Join(errs...)
}

// List returns the routes that are there.
func (Routes) List() (map[netip.Prefix]desired.Route, error) {
	list, err := rtnl.Dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: peerProtocol}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	routes := map[netip.Prefix]desired.Route{}
	for _, r := range list {
		if r.Dst == nil {
			continue
		}
		dst, err := netip.ParsePrefix(r.Dst.String())
		if err != nil {
			continue
		}
		routes[dst] = desired.Route{Device: r.LinkIndex, Gateway: addrOf(r.Gw), Source: addrOf(r.Src)}
	}
	return routes, nil
}

// Clear removes all of them.
func (t Routes) Clear() error { return t.Apply(nil) }

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip) // the zero address where there is none
	return a.Unmap()
}

func kernelRoute(dst netip.Prefix, r desired.Route) *netlink.Route {
	k := &netlink.Route{
		Dst:       &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
		LinkIndex: r.Device, Protocol: peerProtocol,
	}
	if r.Gateway.IsValid() {
		k.Gw = r.Gateway.AsSlice()
	} else {
		k.Scope = netlink.SCOPE_LINK
	}
	if r.Source.IsValid() {
		k.Src = r.Source.AsSlice()
	}
	return k
}

// Connected returns the device by whose network the address is reached without another hop; ok is false where there is none.
func (Routes) Connected(a netip.Addr) (device int, ok bool) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 || routes[0].Type != unix.RTN_UNICAST || len(routes[0].Gw) > 0 {
		return 0, false
	}
	return routes[0].LinkIndex, true
}
