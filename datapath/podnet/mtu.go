package podnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MTU says how large a pod's packets may be, in bytes.
type MTU struct {
	// Device is what the pod's device carries: what leaves by the node's link in one piece. 0 means 1500.
	Device int
	// Peers is what gets to the pods of every other node, some of which may be behind a tunnel. A pod has a route for them, so
	// that all others get the whole of Device. 0 means that there is no difference.
	Peers int
}

// SetMTU changes what pods may send, of those that are there and of those to come.
func (m *Manager) SetMTU(ctx context.Context, mtu MTU) error {
	m.mtuMu.Lock()
	if mtu.Device == 0 {
		mtu.Device = defaultMTU
	}
	same := m.mtu == mtu
	m.mtu = mtu
	m.mtuMu.Unlock()
	if same {
		return nil
	}
	devices, err := podDevices(m.host)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range devices {
		if ctx.Err() != nil || !d.finished() {
			continue
		}
		if err := m.resize(d.id); err != nil {
			errs = append(errs, fmt.Errorf("MTU of pod %s: %w", d.pod, err))
		}
	}
	return errors.Join(errs...)
}

// defaultMTU is the MTU of a node that does not know its links.
const defaultMTU = 1500

func (m *Manager) currentMTU() MTU {
	m.mtuMu.Lock()
	defer m.mtuMu.Unlock()
	return m.mtu
}

// resize gives one pod the MTU that all should have.
func (m *Manager) resize(id string) error {
	defer m.lock(id)()
	d, err := findDevice(m.host, deviceName(id))
	if err != nil || !d.finished() {
		return err
	}
	return m.resizeDevice(d)
}

// resizeDevice changes both sides of a pod's device; the caller holds the pod's lock.
func (m *Manager) resizeDevice(d device) error {
	ns, err := openNamespace(m.path(d.id))
	if err != nil || ns == nil {
		return err
	}
	defer ns.Close()
	mtu := m.currentMTU()
	link, err := m.host.LinkByIndex(d.index)
	if err != nil {
		return err
	}
	if link.Attrs().MTU != mtu.Device {
		if err := m.host.LinkSetMTU(link, mtu.Device); err != nil {
			return err
		}
	}
	return enter(ns, m.hostNS, func() error { return d.resizePod(link.Attrs().ParentIndex, m.routers, m.cfg.ClusterCIDRs, mtu) })
}

// resizePod changes the pod's side; it runs inside the pod's namespace.
func (d device) resizePod(index int, routers families, cluster []netip.Prefix, mtu MTU) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByIndex(index)
	if err != nil {
		return fmt.Errorf("device %d in pod: %w", index, err)
	}
	if link.Attrs().MTU != mtu.Device {
		if err := h.LinkSetMTU(link, mtu.Device); err != nil {
			return fmt.Errorf("MTU %d of %s in pod: %w", mtu.Device, link.Attrs().Name, err)
		}
	}
	return d.routePeers(h, index, routers, cluster, mtu)
}

// routePeers tells the pod how large its packets to the pods of other nodes may be, by a route for them.
func (d device) routePeers(h *netlink.Handle, index int, routers families, cluster []netip.Prefix, mtu MTU) error {
	for _, c := range cluster {
		router := routers.of(c.Addr())
		if !router.IsValid() || !d.hasFamily(c.Addr()) {
			continue
		}
		route := &netlink.Route{LinkIndex: index, Dst: rangeNet(c), Gw: router.AsSlice(), Flags: int(netlink.FLAG_ONLINK), MTU: mtu.Peers}
		var err error
		if mtu.Peers != 0 && mtu.Peers < mtu.Device {
			err = h.RouteReplace(route)
		} else if err = h.RouteDel(&netlink.Route{LinkIndex: index, Dst: rangeNet(c)}); errors.Is(err, unix.ESRCH) {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("route to %s in pod: %w", c, err)
		}
	}
	return nil
}

// hasFamily says whether the pod has an address of a's family.
func (d device) hasFamily(a netip.Addr) bool {
	for _, own := range d.addresses {
		if own.Is4() == a.Is4() {
			return true
		}
	}
	return false
}
