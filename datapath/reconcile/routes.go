package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/skep-io/skep/datapath/rtnl"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/podnet"
)

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
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: podnet.PeerProtocol}, netlink.RT_FILTER_PROTOCOL)
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
		routes[dst] = desired.Route{Device: r.LinkIndex, Gateway: addrOf(r.Gw), OnLink: r.Flags&int(netlink.FLAG_ONLINK) != 0,
			Source: addrOf(r.Src), MTU: r.MTU}
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
		LinkIndex: r.Device, Protocol: podnet.PeerProtocol,
	}
	if r.Gateway.IsValid() {
		k.Gw = r.Gateway.AsSlice()
	} else {
		k.Scope = netlink.SCOPE_LINK
	}
	if r.OnLink {
		k.Flags = int(netlink.FLAG_ONLINK)
	}
	// A locked one counts for packets that are passed on, too.
	k.MTU, k.MTULock = r.MTU, r.MTU != 0
	if r.Source.IsValid() {
		k.Src = r.Source.AsSlice()
	}
	return k
}

// Path is how this node reaches another one.
type Path struct {
	Device int
	// Direct says that the other node is a neighbour: the device has an address in a network that holds it.
	Direct bool
	// MTU is the largest packet that gets there, as far as the kernel has found out.
	MTU int
}

// Path asks the kernel how it reaches an address; ok is false where it does not, or where the address is this node's.
func (Routes) Path(a netip.Addr) (path Path, ok bool) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 || routes[0].Type != unix.RTN_UNICAST {
		return Path{}, false
	}
	r := routes[0]
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return Path{}, false
	}
	path = Path{Device: r.LinkIndex, MTU: cmp.Or(r.MTU, link.Attrs().MTU)}
	if len(r.Gw) > 0 || r.Via != nil {
		return path, true
	}
	path.Direct = connected(link, a)
	return path, true
}

// connected says whether a device has an address whose network holds a.
func connected(link netlink.Link, a netip.Addr) bool {
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(own netlink.Addr) bool {
		return own.IPNet.Contains(a.AsSlice()) || own.Peer != nil && own.Peer.Contains(a.AsSlice())
	})
}
