package podnet

import (
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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/ipam"
)

// routerLabel marks the router address, so that it is found again without knowing the pod CIDR.
const routerLabel = "lo:skep"

// Uplink is a device by which the node talks to others.
type Uplink struct {
	Name  string
	Index int
	// MTU is the largest packet that it carries, in bytes.
	MTU int
	// Addresses are its IPv4 addresses, the primary one first; there is at least one.
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
	podCIDR netip.Prefix
	sysctls sysctlRecord
	uplinks Uplinks
	logger  *slog.Logger
	// attached are the devices that have the programs, by index. The name is empty for one that an earlier process attached:
	// those are attached again, which replaces their programs.
	attached map[int]string
	last     []Uplink
}

// NewHost describes the node's end for its range of pod addresses. dir is where the settings that it changes are noted, for
// [Cleanup] to restore.
func NewHost(podCIDR netip.Prefix, dir string, uplinks Uplinks, logger *slog.Logger) (*Host, error) {
	h := &Host{podCIDR: podCIDR, sysctls: recordIn(dir), uplinks: uplinks, logger: logger, attached: map[int]string{}}
	indexes, err := uplinks.NetdevDevices()
	if err != nil {
		return nil, err
	}
	for _, i := range indexes {
		h.attached[i] = ""
	}
	return h, nil
}

// Setup gives the node its router address and routes its pod range. The address sits on lo: it is there on every machine, is
// never down, and needs no device of its own. Addresses of the range that no pod has are unreachable at once, instead of
// leaving by the default route. Setup is idempotent; a router address of an earlier range is removed.
func (h *Host) Setup() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("device lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	router := hostNet(ipam.Router(h.podCIDR))
	if err := removeRouterAddresses(lo, router); err != nil {
		return err
	}
	if err := netlink.AddrReplace(lo, &netlink.Addr{IPNet: router, Label: routerLabel}); err != nil {
		return fmt.Errorf("router address %s: %w", router.IP, err)
	}
	return h.routeRange()
}

func (h *Host) routeRange() error {
	dst := &net.IPNet{IP: h.podCIDR.Masked().Addr().AsSlice(), Mask: net.CIDRMask(h.podCIDR.Bits(), h.podCIDR.Addr().BitLen())}
	filter := &netlink.Route{Protocol: routeProtocol, Type: unix.RTN_UNREACHABLE}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.String() != dst.String() {
			if err := netlink.RouteDel(&r); err != nil {
				return fmt.Errorf("remove route %s: %w", r.Dst, err)
			}
		}
	}
	err = netlink.RouteReplace(&netlink.Route{Dst: dst, Type: unix.RTN_UNREACHABLE, Protocol: routeProtocol})
	if err != nil {
		return fmt.Errorf("route %s: %w", h.podCIDR, err)
	}
	return nil
}

// removeRouterAddresses removes our addresses from lo, but for keep, which may be nil.
func removeRouterAddresses(lo netlink.Link, keep *net.IPNet) error {
	addrs, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses of lo: %w", err)
	}
	for _, a := range addrs {
		if a.Label != routerLabel || (keep != nil && a.IPNet.String() == keep.String()) {
			continue
		}
		if err := netlink.AddrDel(lo, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove router address %s: %w", a.IP, err)
		}
	}
	return nil
}

// Watch keeps the programs on every device that is not lo nor a pod's and has an IPv4 address. It returns when ctx ends, or
// when the kernel's events cannot be followed; events may then have been lost, and another Watch finds out what they said.
func (h *Host) Watch(ctx context.Context) error {
	failed := make(chan error, 2)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	links, addrs := make(chan netlink.LinkUpdate, 256), make(chan netlink.AddrUpdate, 256)
	err := netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: fail})
	if err != nil {
		return fmt.Errorf("follow devices: %w", err)
	}
	err = netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: fail})
	if err != nil {
		return fmt.Errorf("follow addresses: %w", err)
	}
	for {
		if err := h.Refresh(); err != nil {
			return err
		}
		if err := h.wait(ctx, links, addrs, failed); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// wait returns nil at the next event that may concern an uplink. Pods come and go far more often than uplinks do, so their
// events are skipped here.
func (h *Host) wait(ctx context.Context, links <-chan netlink.LinkUpdate, addrs <-chan netlink.AddrUpdate, failed <-chan error) error {
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
			if !strings.HasPrefix(l.Attrs().Name, devicePrefix) {
				return nil
			}
		case a, ok := <-addrs:
			if !ok {
				return errors.New("follow addresses: the kernel's events ended")
			}
			if a.LinkAddress.IP.To4() != nil {
				return nil
			}
		}
	}
}

// Refresh looks at the devices as they are now, reports them if they changed, and attaches and detaches programs. A device that
// refuses is logged and left out: it must not cost the node its other devices.
func (h *Host) Refresh() error {
	uplinks, err := listUplinks()
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
	return h.sysctls.set("net/ipv4/conf/"+u.Name+"/forwarding", "1")
}

// listUplinks lists the devices that have an IPv4 address, save lo and ours, by index.
func listUplinks() ([]Uplink, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byIndex := map[int][]netip.Addr{}
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP.To4()); ok {
			byIndex[a.LinkIndex] = append(byIndex[a.LinkIndex], addr)
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

// MTU returns the largest packet in bytes that every uplink can carry, or 1500 on a node without uplinks. Pods use it, so that
// what they send leaves the node in one piece.
func MTU() (int, error) {
	uplinks, err := listUplinks()
	if err != nil {
		return 0, err
	}
	mtu := 1500
	for _, u := range uplinks {
		mtu = min(mtu, u.MTU)
	}
	return mtu, nil
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
	uplinks, err := listUplinks()
	errs = append(errs, err)
	for _, u := range uplinks {
		errs = append(errs, DetachFilters(u.Index))
	}
	errs = append(errs, deleteDevices(), cleanupRoutes(), recordIn(filepath.Dir(dir)).restore())
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
	if err := removeRouterAddresses(lo, nil); err != nil {
		return err
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
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
