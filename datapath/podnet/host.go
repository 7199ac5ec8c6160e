package podnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/skep-io/skep/datapath/rtnl"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/ipam"
)

// routerLabel marks the IPv4 router address, so that it is found again without knowing the pod CIDR. IPv6 addresses have no label;
// the route of their range tells them.
const routerLabel = "lo:skep"

// Uplink is a device by which the node talks to others.
type Uplink struct {
	Name  string
	Index int
	// MTU is the largest packet that it carries, in bytes.
	MTU int
	// Addresses are its addresses of the node's families, those of IPv4 first, of each family the primary one first. There is at
	// least one. Those of the link alone are left out.
	Addresses []netip.Addr
}

// Uplinks is who acts on the node's uplinks. All its methods are idempotent.
type Uplinks interface {
	// Changed is told of all uplinks before the programs are attached to those that are new.
	Changed([]Uplink) error
	AttachNetdev(device string, ifindex int) error
	// DetachNetdev of a device that has no programs, or is gone, returns nil.
	DetachNetdev(device string, ifindex int) error
	// NetdevDevices lists the devices that have programs, also from an earlier process and also when they are gone.
	NetdevDevices() ([]int, error)
}

// Host is the node's own end of the pod network. Its methods must run in the network namespace of the node, one at a time.
type Host struct {
	podCIDRs []netip.Prefix
	// six says that the node has IPv6: its uplinks' addresses of that family count.
	six     bool
	sysctls sysctlRecord
	uplinks Uplinks
	logger  *slog.Logger
	// attached are the devices that have the programs, by index. The name is empty for one that an earlier process attached:
	// those are attached again, which replaces their programs.
	attached map[int]string
	last     []Uplink
}

// NewHost describes the node's end for its ranges of pod addresses, one a family. dir is where the settings that it changes are
// noted, for [Cleanup] to restore.
func NewHost(podCIDRs []netip.Prefix, dir string, uplinks Uplinks, logger *slog.Logger) (*Host, error) {
	h := &Host{podCIDRs: podCIDRs, six: routersOf(podCIDRs).v6.IsValid(), sysctls: recordIn(dir), uplinks: uplinks, logger: logger, attached: map[int]string{}}
	indexes, err := uplinks.NetdevDevices()
	if err != nil {
		return nil, err
	}
	for _, i := range indexes {
		h.attached[i] = ""
	}
	return h, nil
}

// Setup gives the node its router addresses and routes its pod ranges. The addresses sit on lo: it is there on every machine, is
// never down, and needs no device of its own. Addresses of a range that no pod has are unreachable at once, instead of leaving by
// the default route. Setup is idempotent; what an earlier range had is removed.
func (h *Host) Setup() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("device lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	if h.six {
		if off, err := readSysctl("net/ipv6/conf/lo/disable_ipv6"); err != nil || off != "0" {
			return fmt.Errorf("IPv6 pod addresses: the kernel has IPv6 disabled: set net.ipv6.conf.all.disable_ipv6=0, or leave IPv6 out")
		}
	}
	if err := removeRanges(lo, h.podCIDRs); err != nil {
		return err
	}
	for _, podCIDR := range h.podCIDRs {
		router := hostNet(ipam.Router(podCIDR))
		address := &netlink.Addr{IPNet: router, Flags: unix.IFA_F_NODAD}
		if podCIDR.Addr().Is4() {
			address.Label = routerLabel
		}
		// The route first: it is what an IPv6 router address is found by.
		err := netlink.RouteReplace(&netlink.Route{Dst: rangeNet(podCIDR), Type: unix.RTN_UNREACHABLE, Protocol: routeProtocol})
		if err != nil {
			return fmt.Errorf("route %s: %w", podCIDR, err)
		}
		if err := netlink.AddrReplace(lo, address); err != nil {
			return fmt.Errorf("router address %s: %w", router.IP, err)
		}
	}
	return nil
}

func rangeNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// removeRanges removes the routes and router addresses of all ranges but those to keep.
func removeRanges(lo netlink.Link, keep []netip.Prefix) error {
	routers := map[string]bool{}
	for _, p := range keep {
		routers[hostNet(ipam.Router(p)).String()] = true
	}
	if err := removeLabelled(lo, routers); err != nil {
		return err
	}
	filter := &netlink.Route{Protocol: routeProtocol, Type: unix.RTN_UNREACHABLE}
	routes, err := listRoutes(filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || slices.ContainsFunc(keep, func(p netip.Prefix) bool { return r.Dst.String() == rangeNet(p).String() }) {
			continue
		}
		if p, err := netip.ParsePrefix(r.Dst.String()); err == nil && p.Addr().Is6() {
			err := netlink.AddrDel(lo, &netlink.Addr{IPNet: hostNet(ipam.Router(p))})
			if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("remove router address of %s: %w", p, err)
			}
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %s: %w", r.Dst, err)
		}
	}
	return nil
}

// removeLabelled removes our IPv4 addresses from lo, but for those to keep.
func removeLabelled(lo netlink.Link, keep map[string]bool) error {
	addrs, err := listAddrs(lo, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses of lo: %w", err)
	}
	for _, a := range addrs {
		if a.Label != routerLabel || keep[a.IPNet.String()] {
			continue
		}
		if err := netlink.AddrDel(lo, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove router address %s: %w", a.IP, err)
		}
	}
	return nil
}

// Watch keeps the programs on every device that is not lo nor a pod's and has an address of the node's families. It returns when ctx ends, or
// when the kernel's events cannot be followed; events may then have been lost, and another Watch finds out what they said.
func (h *Host) Watch(ctx context.Context) error {
	failed := make(chan error, 2)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	links, addrs, routes := make(chan netlink.LinkUpdate, 256), make(chan netlink.AddrUpdate, 256), make(chan netlink.RouteUpdate, 256)
	err := netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: fail})
	if err != nil {
		return fmt.Errorf("follow devices: %w", err)
	}
	err = netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: fail})
	if err != nil {
		return fmt.Errorf("follow addresses: %w", err)
	}
	err = netlink.RouteSubscribeWithOptions(routes, ctx.Done(), netlink.RouteSubscribeOptions{ErrorCallback: fail})
	if err != nil {
		return fmt.Errorf("follow routes: %w", err)
	}
	for {
		if err := h.Refresh(); err != nil {
			return err
		}
		if err := h.wait(ctx, links, addrs, routes, failed); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// wait returns nil at the next event that may concern an uplink. Pods come and go far more often than uplinks do, so their
// events are skipped here.
func (h *Host) wait(ctx context.Context, links <-chan netlink.LinkUpdate, addrs <-chan netlink.AddrUpdate, routes <-chan netlink.RouteUpdate, failed <-chan error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return fmt.Errorf("follow devices: %w", err)
		case l, ok := <-links:
			if !ok {
				return errors.New("follow devices: the kernel's events ended")
			}
			if l.Attrs().Name == overlayDevice && l.Header.Type == unix.RTM_DELLINK {
				h.last = nil // somebody removed it: it is made anew
				return nil
			}
			if !strings.HasPrefix(l.Attrs().Name, devicePrefix) {
				return nil
			}
		case a, ok := <-addrs:
			if !ok {
				return errors.New("follow addresses: the kernel's events ended")
			}
			if _, ok := h.uplinkAddress(a.LinkAddress.IP); ok {
				return nil
			}
		case r, ok := <-routes:
			if !ok {
				return errors.New("follow routes: the kernel's events ended")
			}
			if concernsUplinks(r.Route) {
				h.last = nil // the way to other nodes may be another one
				return nil
			}
		}
	}
}

// concernsUplinks says whether a route may be one to other nodes: those to pods are ours, and those of the local table follow
// from addresses.
func concernsUplinks(r netlink.Route) bool {
	return r.Protocol != routeProtocol && r.Protocol != PeerProtocol && r.Table != unix.RT_TABLE_LOCAL
}

// Refresh looks at the devices as they are now, reports them if they changed, and attaches and detaches programs. A device that
// refuses is logged and left out: it must not cost the node its other devices.
func (h *Host) Refresh() error {
	uplinks, err := h.listUplinks()
	if err != nil {
		return err
	}
	if h.last == nil || !slices.EqualFunc(h.last, uplinks, equalUplinks) {
		if err := h.uplinks.Changed(uplinks); err != nil {
			return fmt.Errorf("uplinks: %w", err)
		}
		h.last = uplinks
	}
	wanted := map[int]bool{}
	for _, u := range uplinks {
		wanted[u.Index] = true
		if h.attached[u.Index] == u.Name {
			continue
		}
		if err := h.attach(u); err != nil {
			h.logger.Warn("uplink without programs", "device", u.Name, "error", err)
			continue
		}
		h.attached[u.Index] = u.Name
		h.logger.Info("uplink attached", "device", u.Name, "addresses", u.Addresses)
	}
	for index, name := range h.attached {
		if wanted[index] {
			continue
		}
		if err := h.uplinks.DetachNetdev(name, index); err != nil {
			h.logger.Warn("former uplink keeps its programs", "device", name, "index", index, "error", err)
			continue
		}
		delete(h.attached, index)
	}
	return nil
}

func equalUplinks(a, b Uplink) bool {
	return a.Name == b.Name && a.Index == b.Index && a.MTU == b.MTU && slices.Equal(a.Addresses, b.Addresses)
}

// attach attaches the programs and lets the device forward, since packets for pods come in by it.
func (h *Host) attach(u Uplink) error {
	if err := h.uplinks.AttachNetdev(u.Name, u.Index); err != nil {
		return err
	}
	if err := h.sysctls.set("net/ipv4/conf/"+u.Name+"/forwarding", "1"); err != nil || !h.six {
		return err
	}
	// A device that forwards takes no notice of router advertisements, but at 2; one that has its address or its default route
	// from them must keep it.
	const followRouters, thoughForwarding = "1", "2"
	if ra := "net/ipv6/conf/" + u.Name + "/accept_ra"; readsAs(ra, followRouters) {
		if err := h.sysctls.set(ra, thoughForwarding); err != nil {
			return err
		}
	}
	for _, s := range forward6(u.Name) {
		if err := h.sysctls.set(s.name, s.value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// readsAs says whether a setting has a value; one that is not there has none.
func readsAs(name, value string) bool {
	v, err := readSysctl(name)
	return err == nil && v == value
}

func (h *Host) listUplinks() ([]Uplink, error) { return listUplinks(h.uplinkAddress) }

// uplinkAddress says whether an address makes its device an uplink of this node, and which it is.
func (h *Host) uplinkAddress(ip net.IP) (netip.Addr, bool) {
	addr, ok := netip.AddrFromSlice(ip)
	addr = addr.Unmap()
	return addr, ok && (addr.Is4() || h.six && addr.IsGlobalUnicast())
}

// anyFamily is an uplinkAddress that knows no node: what may have been an uplink's.
func anyFamily(ip net.IP) (netip.Addr, bool) {
	addr, ok := netip.AddrFromSlice(ip)
	return addr.Unmap(), ok
}

// listUplinks lists the devices that have addresses which are wanted, save lo and ours, by index.
func listUplinks(wanted func(net.IP) (netip.Addr, bool)) ([]Uplink, error) {
	links, err := rtnl.Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	byIndex := map[int][]netip.Addr{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		addrs, err := listAddrs(nil, family)
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range addrs {
			if addr, ok := wanted(a.IP); ok {
				byIndex[a.LinkIndex] = append(byIndex[a.LinkIndex], addr)
			}
		}
	}
	uplinks := []Uplink{}
	for _, l := range links {
		attrs := l.Attrs()
		if attrs.Flags&net.FlagLoopback != 0 || strings.HasPrefix(attrs.Name, devicePrefix) || len(byIndex[attrs.Index]) == 0 {
			continue
		}
		uplinks = append(uplinks, Uplink{attrs.Name, attrs.Index, attrs.MTU, byIndex[attrs.Index]})
	}
	return uplinks, nil
}

// LinkMTU returns the largest packet in bytes that the uplinks with the node's own addresses carry, or all uplinks where none
// has one, or 1500 on a node without uplinks. Pods use it, so that what they send to other nodes leaves in one piece.
func LinkMTU(uplinks []Uplink, own []netip.Addr) int {
	mtu := 0
	for _, u := range uplinks {
		if slices.ContainsFunc(own, func(a netip.Addr) bool { return slices.Contains(u.Addresses, a) }) && (mtu == 0 || u.MTU < mtu) {
			mtu = u.MTU
		}
	}
	if mtu != 0 || len(uplinks) == 0 {
		return cmp.Or(mtu, defaultMTU)
	}
	return slices.MinFunc(uplinks, func(a, b Uplink) int { return a.MTU - b.MTU }).MTU
}

// Cleanup removes everything that this package made on the machine, whoever made it: pods' devices and the namespaces pinned
// in dir, routes and the router address; and it restores the settings noted in dir's parent. It is idempotent.
func Cleanup(dir string) error {
	var errs []error
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range entries {
		errs = append(errs, removeNamespace(filepath.Join(dir, e.Name())))
	}
	uplinks, err := listUplinks(anyFamily)
	errs = append(errs, err)
	for _, u := range uplinks {
		errs = append(errs, DetachFilters(u.Index))
	}
	errs = append(errs, RemoveOverlay(), deleteDevices(), cleanupRoutes(), recordIn(filepath.Dir(dir)).restore())
	return errors.Join(errs...)
}

// deleteDevices deletes the devices of all pods side by side, since each takes the kernel tens of milliseconds of waiting.
func deleteDevices() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	devices, err := podDevices(h)
	if err != nil {
		return err
	}
	errs := make([]error, len(devices))
	var wg sync.WaitGroup
	for i, d := range devices {
		wg.Go(func() { errs[i] = d.delete() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func cleanupRoutes() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("device lo: %w", err)
	}
	if err := removeRanges(lo, nil); err != nil {
		return err
	}
	routes, err := listRoutes(&netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %s: %w", r.Dst, err)
		}
	}
	return nil
}

// listRoutes lists the routes of all families that are like filter in what mask says (netlink.RT_FILTER_*).
func listRoutes(filter *netlink.Route, mask uint64) ([]netlink.Route, error) {
	return rtnl.Dump(func() ([]netlink.Route, error) { return netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, mask) })
}

// listAddrs lists the addresses of a device, or of all if it is nil.
func listAddrs(link netlink.Link, family int) ([]netlink.Addr, error) {
	return rtnl.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, family) })
}
