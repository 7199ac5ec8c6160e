package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Segment is a network within the machine, for several nodes on it: each further node has a network namespace of its own, and a
// bridge, in a namespace of its own too, joins them with the first node, which is where the caller is. Its methods are idempotent
// and repair what is half there.
type Segment struct {
	// Dir holds the pinned namespaces: a folder for each node.
	Dir string
	// Network is cut into the nodes' addresses: the first has the first.
	Network netip.Prefix
	// Device is the name of the first node's device.
	Device string
	// MTU is that of all devices.
	MTU int
}

// The devices within the segment's namespaces.
const (
	bridgeDevice  = "bridge"
	segmentDevice = "eth0"
)

// Namespace is where the network namespace of a further node is pinned.
func (s Segment) Namespace(node string) string { return filepath.Join(s.Dir, node, "host.netns") }

func (s Segment) bridge() string { return filepath.Join(s.Dir, "bridge.netns") }

// Address is the address of the n-th node, counted from 1.
func (s Segment) Address(n int) netip.Addr {
	a := s.Network.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// Ensure makes the first node's end, and the bridge.
func (s Segment) Ensure() error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	bridge, within, err := s.openBridge(home)
	if err != nil {
		return err
	}
	defer bridge.Close()
	defer within.Close()
	if err := within.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeDevice, MTU: s.MTU}}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("bridge of the nodes: %w", err)
	}
	if err := up(within, bridgeDevice); err != nil {
		return err
	}
	return s.join(home, bridge, within, s.Device, "node-1", 1)
}

// openBridge opens the bridge's namespace, which it makes if it is not there. The caller closes both.
func (s Segment) openBridge(home *os.File) (*os.File, *netlink.Handle, error) {
	bridge, err := createNamespace(s.bridge(), home)
	if err != nil {
		return nil, nil, err
	}
	within, err := netlink.NewHandleAt(netns.NsHandle(bridge.Fd()))
	if err != nil {
		bridge.Close()
		return nil, nil, err
	}
	return bridge, within, nil
}

// EnsureNode makes the namespace of the n-th node, of that name, joins it to the bridge, and leads what is meant for elsewhere to
// the first node.
func (s Segment) EnsureNode(n int, name string) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := os.MkdirAll(filepath.Dir(s.Namespace(name)), 0o700); err != nil {
		return err
	}
	ns, err := createNamespace(s.Namespace(name), home)
	if err != nil {
		return err
	}
	defer ns.Close()
	bridge, within, err := s.openBridge(home)
	if err != nil {
		return err
	}
	defer bridge.Close()
	defer within.Close()
	if err := s.join(ns, bridge, within, segmentDevice, name, n); err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()))
	if err != nil {
		return err
	}
	defer h.Close()
	if err := up(h, "lo"); err != nil {
		return err
	}
	link, err := h.LinkByName(segmentDevice)
	if err != nil {
		return err
	}
	return h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: s.Address(1).AsSlice(), Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
}

// join gives the namespace ns a device with the n-th address, whose other end is a port of the bridge.
func (s Segment) join(ns, bridge *os.File, within *netlink.Handle, device, port string, n int) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()))
	if err != nil {
		return err
	}
	defer h.Close()
	if _, err := h.LinkByName(device); err != nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = device, s.MTU
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerMTU, veth.PeerNamespace = port, uint32(s.MTU), netlink.NsFd(int(bridge.Fd()))
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("device %s of the nodes' segment: %w", device, err)
		}
	}
	master, err := within.LinkByName(bridgeDevice)
	if err != nil {
		return fmt.Errorf("bridge of the nodes: %w", err)
	}
	end, err := within.LinkByName(port)
	if err != nil {
		return fmt.Errorf("device %s leads out of the nodes' segment: %w; `skep down` removes it", device, err)
	}
	if err := errors.Join(within.LinkSetMaster(end, master), within.LinkSetUp(end), up(h, device)); err != nil {
		return fmt.Errorf("port %s of the nodes' bridge: %w", port, err)
	}
	link, err := h.LinkByName(device)
	if err != nil {
		return err
	}
	address := &net.IPNet{IP: s.Address(n).AsSlice(), Mask: net.CIDRMask(s.Network.Bits(), s.Network.Addr().BitLen())}
	return h.AddrReplace(link, &netlink.Addr{IPNet: address})
}

func up(h *netlink.Handle, device string) error {
	link, err := h.LinkByName(device)
	if err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	return h.LinkSetUp(link)
}

// Start starts a process in the network namespace pinned at path. Where none is pinned it gets a fresh one, which ends with it: it
// must not work on this node's.
func Start(path string, cmd *exec.Cmd) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	ns, err := openNamespace(path)
	if err != nil {
		return err
	}
	if ns == nil {
		return onThread(home, func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			return cmd.Start()
		})
	}
	defer ns.Close()
	return enter(ns, home, cmd.Start)
}

// Remove unpins the namespaces of the nodes and removes the first node's device. The processes must have ended.
func (s Segment) Remove() error {
	var errs []error
	pins, err := filepath.Glob(s.Namespace("*"))
	if err != nil {
		return err
	}
	for _, p := range append(pins, s.bridge()) {
		errs = append(errs, removeNamespace(p))
	}
	if link, err := netlink.LinkByName(s.Device); err == nil {
		errs = append(errs, netlink.LinkDel(link))
	}
	return errors.Join(errs...)
}
