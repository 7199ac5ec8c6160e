package podnet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/skep-io/skep/datapath/rtnl"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// devicePrefix starts the name of every pod's host device, so that they are told from all others.
	devicePrefix = "skep"
	// podDevice is the name of the device inside the pod, unless somebody asks for another.
	podDevice = "eth0"
	// maxAlias is the longest alias that the kernel takes, in bytes.
	maxAlias = 255
	// sandboxMark is between a UID and a sandbox's name in an alias; no UID has it.
	sandboxMark = "="
	// maxID is the longest name of a network, in bytes: an alias has room for it beside a UID and two addresses.
	maxID = 144
	// routeProtocol marks the routes that are ours, in the range that the kernel leaves to others.
	routeProtocol = 83
	// PeerProtocol marks the routes to other nodes' pods, so that they are known after a restart and nobody else's are touched.
	PeerProtocol = 84
)

// device is the host side of a pod's veth pair.
type device struct {
	name  string
	index int
	// hostMAC belongs to the host side, podMAC to the pod's. Both follow from the pod's UID, so they need not be asked for.
	hostMAC, podMAC net.HardwareAddr
	// inside is the name of the pod's side, known while it is made.
	inside string
	// addresses, id, uid and pod are what the alias says. The primary address comes first; a device that was never finished has
	// none.
	addresses []netip.Addr
	// id names this network: it is the pod's uid, unless the pod came with a sandbox of somebody else's.
	id, uid string
	pod     string
}

// finished says whether the device's alias names its pod.
func (d device) finished() bool { return len(d.addresses) > 0 }

// deviceName is the name of a host device: the longest that the kernel takes, 44 bits of them from what names the network.
func deviceName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return devicePrefix + hex.EncodeToString(sum[:])[:unix.IFNAMSIZ-1-len(devicePrefix)]
}

// macs derives a device's two hardware addresses from its name. The first octet makes them unicast and locally administered;
// the second tells the two sides apart.
func macs(name string) (host, pod net.HardwareAddr) {
	sum := sha256.Sum256([]byte(name))
	host = net.HardwareAddr{0x0a, 0x01, sum[0], sum[1], sum[2], sum[3]}
	pod = net.HardwareAddr{0x0a, 0x02, sum[0], sum[1], sum[2], sum[3]}
	return host, pod
}

func newDevice(pod Pod, addresses []netip.Addr) device {
	d := device{name: deviceName(pod.id()), inside: pod.Device, addresses: addresses, id: pod.id(), uid: pod.UID, pod: pod.Namespace + "/" + pod.Name}
	if d.inside == "" {
		d.inside = podDevice
	}
	d.hostMAC, d.podMAC = macs(d.name)
	return d
}

// alias is the record of the device: marker, addresses, UID, with the sandbox's name where there is one, and pod. Only the last
// may be cut short; it is for people.
func (d device) alias() string {
	owner := d.uid
	if d.id != d.uid {
		owner += sandboxMark + d.id
	}
	s := strings.Join([]string{devicePrefix, joinAddresses(d.addresses), owner, d.pod}, " ")
	return s[:min(len(s), maxAlias)]
}

// parseDevice reads a device back from what the kernel says of it.
func parseDevice(attrs *netlink.LinkAttrs) device {
	d := device{name: attrs.Name, index: attrs.Index}
	d.hostMAC, d.podMAC = macs(d.name)
	fields := strings.SplitN(attrs.Alias, " ", 4)
	if len(fields) != 4 || fields[0] != devicePrefix {
		return d
	}
	addresses, err := splitAddresses(fields[1])
	uid, id, sandbox := strings.Cut(fields[2], sandboxMark)
	if !sandbox {
		id = uid
	}
	if err != nil || deviceName(id) != d.name {
		return d
	}
	d.addresses, d.id, d.uid, d.pod = addresses, id, uid, fields[3]
	return d
}

func joinAddresses(addresses []netip.Addr) string {
	var b strings.Builder
	for i, a := range addresses {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(a.String())
	}
	return b.String()
}

func splitAddresses(s string) ([]netip.Addr, error) {
	var addresses []netip.Addr
	for field := range strings.SplitSeq(s, ",") {
		a, err := netip.ParseAddr(field)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, a)
	}
	return addresses, nil
}

// isPodDevice says whether the link is the host side of a pod of ours.
func isPodDevice(link netlink.Link) bool {
	name := link.Attrs().Name
	return link.Type() == "veth" && strings.HasPrefix(name, devicePrefix) && len(name) == unix.IFNAMSIZ-1
}

// IsHardware says whether a device is hardware, or stands for it in a virtual machine, and belongs to no bridge, bond or network
// of its own routes.
func IsHardware(ifindex int) (bool, error) {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return false, fmt.Errorf("device %d: %w", ifindex, err)
	}
	return l.Type() == "device" && l.Attrs().MasterIndex == 0, nil
}

// podDevices lists the host devices of all pods, finished or not.
func podDevices(h *netlink.Handle) ([]device, error) {
	links, err := rtnl.Dump(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var devices []device
	for _, l := range links {
		if isPodDevice(l) {
			devices = append(devices, parseDevice(l.Attrs()))
		}
	}
	return devices, nil
}

// findDevice returns the device of that name; its index is 0 when there is none.
func findDevice(h *netlink.Handle, name string) (device, error) {
	link, err := h.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return device{name: name}, nil
	}
	if err != nil {
		return device{}, fmt.Errorf("device %s: %w", name, err)
	}
	return parseDevice(link.Attrs()), nil
}

// create makes the veth pair, the peer directly inside ns, and notes the index.
func (d *device) create(h *netlink.Handle, ns *os.File, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = d.name, mtu, d.hostMAC
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU, veth.PeerHardwareAddr = d.inside, uint32(mtu), d.podMAC
	veth.PeerNamespace = netlink.NsFd(int(ns.Fd()))
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("create device %s: %w", d.name, err)
	}
	d.index = veth.Index
	return nil
}

// configurePod sets up the pod's side; it runs inside the pod's namespace. The pod knows its router's hardware address from
// the start and the router the pod's, so no packet ever waits for ARP or neighbour discovery.
func (d device) configurePod(routers families, cluster []netip.Prefix, mtu MTU) error {
	if err := writeSysctls(podSysctls(d.inside, d.has6())); err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("device lo: %w", err)
	}
	eth, err := h.LinkByName(d.inside)
	if err != nil {
		return fmt.Errorf("device %s: %w", d.inside, err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up lo in pod: %w", err)
	}
	for _, a := range d.addresses {
		if err := h.AddrReplace(eth, &netlink.Addr{IPNet: hostNet(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("set address %s in pod: %w", a, err)
		}
	}
	if err := h.LinkSetUp(eth); err != nil {
		return fmt.Errorf("bring up %s in pod: %w", d.inside, err)
	}
	for _, a := range d.addresses {
		if err := setRouter(h, eth.Attrs().Index, routers.of(a), d.hostMAC); err != nil {
			return err
		}
	}
	if mtu.Peers == 0 {
		return nil // a new pod has no route to take away
	}
	return d.routePeers(h, eth.Attrs().Index, routers, cluster, mtu)
}

// setRouter makes everything leave by the router, whose hardware address is known.
func setRouter(h *netlink.Handle, index int, router netip.Addr, mac net.HardwareAddr) error {
	if err := h.NeighSet(neighbour(index, router, mac)); err != nil {
		return fmt.Errorf("set hardware address of router %s in pod: %w", router, err)
	}
	everything := netip.PrefixFrom(router, 0).Masked()
	route := &netlink.Route{
		LinkIndex: index, Gw: router.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
		Dst: &net.IPNet{IP: everything.Addr().AsSlice(), Mask: net.CIDRMask(0, router.BitLen())},
	}
	if err := h.RouteReplace(route); err != nil {
		return fmt.Errorf("set default route by %s in pod: %w", router, err)
	}
	return nil
}

// has6 says whether the pod has an IPv6 address.
func (d device) has6() bool { return slices.ContainsFunc(d.addresses, netip.Addr.Is6) }

// configureHost brings the host side up and routes the pod's addresses to it. The host speaks to its pods from the router
// address, which is there on a node without any other.
func (d device) configureHost(h *netlink.Handle, routers families) error {
	if err := writeSysctls(hostDeviceSysctls(d.name, d.has6())); err != nil {
		return err
	}
	if err := h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.index}}); err != nil {
		return fmt.Errorf("bring up %s: %w", d.name, err)
	}
	for _, a := range d.addresses {
		if err := h.NeighSet(neighbour(d.index, a, d.podMAC)); err != nil {
			return fmt.Errorf("hardware address of %s: %w", a, err)
		}
		route := &netlink.Route{LinkIndex: d.index, Dst: hostNet(a), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol}
		// A pod may be older than the node's range of its family.
		if router := routers.of(a); router.IsValid() {
			route.Src = router.AsSlice()
		}
		if err := h.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %s: %w", a, err)
		}
	}
	return nil
}

// finish writes the alias.
func (d device) finish(h *netlink.Handle) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.index}}
	if err := h.LinkSetAlias(link, d.alias()); err != nil {
		return fmt.Errorf("alias of %s: %w", d.name, err)
	}
	return nil
}

// disown removes the alias; a device that is gone is no error.
func (d device) disown(h *netlink.Handle) error {
	err := h.LinkSetAlias(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.index}}, "")
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("alias of %s: %w", d.name, err)
	}
	return nil
}

// down stops all traffic; a device that is gone is no error.
func (d device) down(h *netlink.Handle) error {
	err := h.LinkSetDown(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.index}})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("take down %s: %w", d.name, err)
	}
	return nil
}

// delete removes the pair, and with it its routes; a device that is gone is no error. It uses a connection to the kernel of
// its own, since this takes long and nobody else should wait behind it.
func (d device) delete() error {
	err := netlink.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.index}})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete device %s: %w", d.name, err)
	}
	return nil
}

// neighbour is an entry that nobody asks the link for and that never expires.
func neighbour(index int, address netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	family := unix.AF_INET
	if address.Is6() {
		family = unix.AF_INET6
	}
	return &netlink.Neigh{
		LinkIndex: index, Family: family, State: unix.NUD_PERMANENT, IP: address.AsSlice(), HardwareAddr: mac,
	}
}

// hostNet is the network that holds the address alone.
func hostNet(address netip.Addr) *net.IPNet {
	return &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(address.BitLen(), address.BitLen())}
}
