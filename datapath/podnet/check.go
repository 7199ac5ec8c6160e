package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNotAttached is returned for a pod that has no network, or another one than it is asked for.
var ErrNotAttached = errors.New("not attached")

// Check says what is wrong with a pod's network, nil for nothing. It repairs nothing. The error wraps [ErrNotAttached] where
// there is no network at all.
func (m *Manager) Check(_ context.Context, pod Pod) (Attachment, error) {
	defer m.lock(pod.id())()
	d, err := findDevice(m.host, deviceName(pod.id()))
	if err != nil {
		return Attachment{}, err
	}
	ns, err := openNamespace(m.path(pod.id()))
	if err != nil {
		return Attachment{}, err
	}
	if ns != nil {
		defer ns.Close()
	}
	if !d.finished() || ns == nil || pod.NetNS != nil && !sameFile(ns, pod.NetNS) {
		return Attachment{}, fmt.Errorf("network of pod %s/%s: %w", pod.Namespace, pod.Name, ErrNotAttached)
	}
	d.inside = pod.Device
	if d.inside == "" {
		d.inside = podDevice
	}
	if err := enter(ns, m.hostNS, d.check); err != nil {
		return Attachment{}, fmt.Errorf("network of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return m.attachment(d), m.checkHost(d)
}

// check looks at the pod's side from inside its namespace.
func (d device) check() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(d.inside)
	if err != nil {
		return fmt.Errorf("device %s in pod: %w", d.inside, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 || link.Attrs().HardwareAddr.String() != d.podMAC.String() {
		return fmt.Errorf("device %s in pod: down, or not ours", d.inside)
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("addresses of %s in pod: %w", d.inside, err)
	}
	for _, a := range d.addresses {
		if !slices.ContainsFunc(addrs, func(have netlink.Addr) bool { return have.IP.Equal(a.AsSlice()) }) {
			return fmt.Errorf("device %s in pod: has no address %s", d.inside, a)
		}
		routes, err := h.RouteGet(a.Next().AsSlice())
		if err != nil || len(routes) == 0 || routes[0].LinkIndex != link.Attrs().Index {
			return fmt.Errorf("device %s in pod: not the way to others", d.inside)
		}
	}
	return nil
}

// checkHost looks at the host's side: up, and in the kernel's table.
func (m *Manager) checkHost(d device) error {
	link, err := m.host.LinkByName(d.name)
	if err != nil || link.Attrs().Flags&net.FlagUp == 0 {
		return errors.Join(fmt.Errorf("device %s: down", d.name), err)
	}
	endpoints, err := m.cfg.Endpoints.List()
	if err != nil {
		return err
	}
	for _, a := range d.addresses {
		found := false
		for _, e := range endpoints {
			found = found || e.Address == a && e.IfIndex == d.index
		}
		if !found {
			return fmt.Errorf("address %s: the programs do not know it", a)
		}
	}
	return nil
}
