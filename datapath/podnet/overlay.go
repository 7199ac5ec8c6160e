package podnet

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// overlayDevice is the name of the tunnel's device. Its prefix tells it from what leads outside by itself.
	overlayDevice = devicePrefix + "-overlay"
	// OverlayPort is where nodes take packets out of the tunnel, in UDP: none of the ports that others tunnel by.
	OverlayPort = 8483
)

// EnsureOverlay makes the device of the tunnel to other nodes, or finds it, and returns its index. It is one device for all of
// them: its programs say where a packet goes. mtu is the largest packet that gets to any of them; six says that the node has IPv6.
func EnsureOverlay(mtu int, six bool) (index int, err error) {
	link, err := netlink.LinkByName(overlayDevice)
	var missing netlink.LinkNotFoundError
	if err != nil && !errors.As(err, &missing) {
		return 0, fmt.Errorf("device %s: %w", overlayDevice, err)
	}
	if err == nil && !isOverlay(link) {
		if err := netlink.LinkDel(link); err != nil {
			return 0, fmt.Errorf("remove device %s: %w", overlayDevice, err)
		}
		link = nil
	}
	if err != nil || link == nil {
		if link, err = createOverlay(mtu); err != nil {
			return 0, err
		}
	}
	if link.Attrs().MTU != mtu {
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return 0, fmt.Errorf("MTU %d of %s: %w", mtu, overlayDevice, err)
		}
	}
	if err := writeSysctls(hostDeviceSysctls(overlayDevice, six)); err != nil {
		return 0, err
	}
	// Nobody is asked for hardware addresses: what is for whom the tunnel's key says.
	if err := errors.Join(netlink.LinkSetARPOff(link), netlink.LinkSetUp(link)); err != nil {
		return 0, fmt.Errorf("bring up %s: %w", overlayDevice, err)
	}
	return link.Attrs().Index, nil
}

func isOverlay(link netlink.Link) bool {
	vxlan, ok := link.(*netlink.Vxlan)
	return ok && vxlan.FlowBased && vxlan.Port == OverlayPort
}

func createOverlay(mtu int) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = overlayDevice, mtu
	err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, Port: OverlayPort})
	if err != nil {
		return nil, fmt.Errorf("create device %s: %w", overlayDevice, err)
	}
	link, err := netlink.LinkByName(overlayDevice)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", overlayDevice, err)
	}
	return link, nil
}

// Overlay returns the index of the tunnel's device; 0 when there is none.
func Overlay() int {
	link, err := netlink.LinkByName(overlayDevice)
	if err != nil {
		return 0
	}
	return link.Attrs().Index
}

// RemoveOverlay removes the device of the tunnel, with its routes; one that is not there is no error.
func RemoveOverlay() error {
	link, err := netlink.LinkByName(overlayDevice)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove device %s: %w", overlayDevice, err)
	}
	return nil
}
