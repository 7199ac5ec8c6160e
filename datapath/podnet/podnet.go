// Package podnet gives a pod its network: a network namespace pinned by a bind mount, a veth pair, an address, routes and the
// programs on the host side. It also holds the host's end: the router address, the uplinks, the sysctls.
//
// The kernel's links are the only record. The alias of a pod's host device names the pod and its addresses and is written last,
// when everything else of the pod is in place: a device without an alias was never finished and no container has run behind
// it, so it is removed and made anew. A process that is killed at any moment finds its state again this way, and can neither
// lose an address nor give it out twice.
package podnet

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/ipam"
)

// Pod is what the network needs to know of a pod.
type Pod struct {
	// UID names the pod for all of its life; it becomes a file name.
	UID             string
	Namespace, Name string
	// Sandbox names one network of a pod whose networks somebody else asks for: a pod has one after another, and the end of one
	// may come after the start of the next. It becomes a file name, and is what Detach takes. Empty: the pod has but one, the
	// UID's.
	Sandbox string
	// NetNS is the network namespace where it is there already, nil for a new one. The caller closes it.
	NetNS *os.File
	// Device is the name of the device within; empty: eth0.
	Device string
	// Identity is what network policies see of it.
	Identity desired.Identity
}

// id names the pod's network.
func (p Pod) id() string {
	if p.Sandbox != "" {
		return p.Sandbox
	}
	return p.UID
}

// Attachment is a pod's network, ready for its first packet.
type Attachment struct {
	// NetNS is the path at which the pod's network namespace is pinned.
	NetNS string
	// IPs are the pod's addresses, the primary one first.
	IPs []netip.Addr
	// MTU is the largest packet that the pod's device sends, in bytes.
	MTU int
	// Routers are the next hops of all that the pod sends, one for each of IPs.
	Routers []netip.Addr
	// HostDevice is the name of the device's other end. HostMAC and PodMAC are the hardware addresses of the two.
	HostDevice      string
	HostMAC, PodMAC net.HardwareAddr
}

// Programs attaches the packet programs to a pod's host device. AttachPod is idempotent; DetachPod of a device that has none,
// or is gone, returns nil.
type Programs interface {
	AttachPod(device string, ifindex int) error
	DetachPod(device string, ifindex int) error
}

// Endpoints is the kernel's table of this node's pods. Put is idempotent; Delete of a missing address returns nil. Delete also
// ends what the kernel remembers of the address, such as connections, so that its next owner starts clean.
type Endpoints interface {
	Put(desired.Endpoint) error
	Delete(netip.Addr) error
	List() ([]desired.Endpoint, error)
}

// Config is what a Manager needs. All fields are required but ClusterCIDRs and MTU.
type Config struct {
	// Dir is where network namespaces are pinned, one file a network, named as it is.
	Dir string
	// PodCIDRs are this node's ranges of pod addresses, one a family. A pod has an address of each, in this order.
	PodCIDRs []netip.Prefix
	// ClusterCIDRs are the pod addresses of all nodes.
	ClusterCIDRs []netip.Prefix
	// MTU is how large the pods' packets may be at first: see [Manager.SetMTU].
	MTU       MTU
	Programs  Programs
	Endpoints Endpoints
	Logger    *slog.Logger
}

// Manager attaches and detaches the pods of one node. It is safe for concurrent use.
type Manager struct {
	cfg     Config
	routers families
	pools   ipam.Pools
	host    *netlink.Handle
	hostNS  *os.File
	mtuMu   sync.Mutex
	mtu     MTU // guarded by mtuMu
	// busy serialises work on one pod; two pods rarely share a lock, and only wait for each other when they do.
	busy [64]sync.Mutex
	// deletions are the devices that the kernel is still taking apart, which takes it tens of milliseconds each.
	deletions sync.WaitGroup
}

// New restores the pool of addresses from the devices that exist and removes devices that were never finished. It must run in
// the network namespace of the node. Close releases what it holds; it leaves the pods alone.
func New(cfg Config) (*Manager, error) {
	if cfg.MTU.Device == 0 {
		cfg.MTU.Device = defaultMTU
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	hostNS, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("network namespace of the node: %w", err)
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		hostNS.Close()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	m := &Manager{cfg: cfg, mtu: cfg.MTU, routers: routersOf(cfg.PodCIDRs), host: host, hostNS: hostNS}
	used, err := m.restore()
	if err == nil {
		m.pools, err = ipam.NewPools(cfg.PodCIDRs, used, time.Now)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Close waits for deletions under way and releases the manager's handles.
func (m *Manager) Close() {
	m.deletions.Wait()
	m.host.Close()
	m.hostNS.Close()
}

// restore returns the addresses that finished devices hold, by pod, and removes unfinished devices.
func (m *Manager) restore() (map[netip.Addr]string, error) {
	devices, err := podDevices(m.host)
	if err != nil {
		return nil, err
	}
	used := map[netip.Addr]string{}
	for _, d := range devices {
		if !d.finished() {
			m.cfg.Logger.Info("removing a pod device that was never finished", "device", d.name)
			if err := m.removeDevice(d); err != nil {
				return nil, err
			}
			continue
		}
		for _, a := range d.addresses {
			used[a] = d.id
		}
	}
	return used, nil
}

// Attach gives the pod its network, or finds the one it has, and repairs what is missing on the host's side of it. When it
// returns nil everything is in place before the pod's first packet. On an error nothing of a new pod is left behind.
func (m *Manager) Attach(ctx context.Context, pod Pod) (Attachment, error) {
	for _, name := range []string{pod.UID, pod.id()} {
		if name == "" || strings.ContainsAny(name, "/ ") || name[0] == '.' || len(name) > maxID {
			return Attachment{}, fmt.Errorf("pod %s/%s: %q cannot name a network namespace", pod.Namespace, pod.Name, name)
		}
	}
	defer m.lock(pod.id())()
	if err := ctx.Err(); err != nil {
		return Attachment{}, err
	}
	d, err := m.ensure(pod)
	if err != nil {
		return Attachment{}, fmt.Errorf("network of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return m.attachment(d), nil
}

func (m *Manager) attachment(d device) Attachment {
	a := Attachment{NetNS: m.path(d.id), IPs: slices.Clone(d.addresses), MTU: m.currentMTU().Device, HostDevice: d.name, HostMAC: d.hostMAC, PodMAC: d.podMAC}
	for _, ip := range d.addresses {
		a.Routers = append(a.Routers, m.routers.of(ip))
	}
	return a
}

func (m *Manager) ensure(pod Pod) (device, error) {
	d, err := findDevice(m.host, deviceName(pod.id()))
	if err != nil {
		return device{}, err
	}
	ns, err := openNamespace(m.path(pod.id()))
	if err == nil && ns != nil && pod.NetNS != nil && !sameFile(ns, pod.NetNS) {
		// The name is used again for another namespace: what is known by it is of before.
		err = errors.Join(ns.Close(), removeNamespace(m.path(pod.id())))
		ns = nil
	}
	switch {
	case err != nil:
		return device{}, err
	case d.finished() && ns != nil:
		defer ns.Close()
		return d, m.connect(d)
	case d.index != 0:
		// Without a namespace or an alias there is no container behind this device.
		if err := m.removeDevice(d); err != nil {
			return device{}, err
		}
	}
	if ns != nil {
		ns.Close()
	}
	d, err = m.create(pod)
	if err != nil {
		return device{}, errors.Join(err, m.remove(pod.id()))
	}
	return d, nil
}

// create makes everything from nothing. The alias comes last: it says that the device is finished.
func (m *Manager) create(pod Pod) (device, error) {
	addresses, err := m.pools.Allocate(pod.id())
	if err != nil {
		return device{}, err
	}
	d := newDevice(pod, addresses)
	ns, err := m.namespace(pod)
	if err != nil {
		return device{}, err
	}
	defer ns.Close()
	mtu := m.currentMTU()
	if err := d.create(m.host, ns, mtu.Device); err != nil {
		return device{}, err
	}
	if err := enter(ns, m.hostNS, func() error { return d.configurePod(m.routers, m.cfg.ClusterCIDRs, mtu) }); err != nil {
		return device{}, err
	}
	if err := m.connect(d); err != nil {
		return device{}, err
	}
	if err := d.finish(m.host); err != nil || mtu == m.currentMTU() {
		return d, err
	}
	return d, m.resizeDevice(d) // who changed it has not seen this pod
}

// namespace is the pod's: one that it came with, pinned here too, or a new one.
func (m *Manager) namespace(pod Pod) (*os.File, error) {
	if pod.NetNS != nil {
		return adoptNamespace(m.path(pod.id()), pod.NetNS)
	}
	return createNamespace(m.path(pod.id()), m.hostNS)
}

// connect sets up the host's side of a device: programs first, so that no packet passes without them, then the endpoint, and
// only then is the device brought up and routed to.
func (m *Manager) connect(d device) error {
	if err := m.cfg.Programs.AttachPod(d.name, d.index); err != nil {
		return err
	}
	cookie, err := cookieOf(m.path(d.id), m.hostNS)
	if err != nil {
		return err
	}
	for i, a := range d.addresses {
		endpoint := desired.Endpoint{Address: a, Pod: d.uid, IfIndex: d.index, PodMAC: d.podMAC, HostMAC: d.hostMAC}
		if i == 0 {
			endpoint.NetNS = cookie // a namespace stands for the primary address
		}
		if err := m.cfg.Endpoints.Put(endpoint); err != nil {
			return err
		}
	}
	return d.configureHost(m.host, m.routers)
}

// Reconnect gives the pods that an earlier process attached the programs and rows of this one. Their traffic goes on
// meanwhile. It returns the errors of all pods joined, and stops early when ctx ends.
func (m *Manager) Reconnect(ctx context.Context) error {
	devices, err := podDevices(m.host)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range devices {
		if ctx.Err() != nil || !d.finished() {
			continue
		}
		if err := m.reconnect(d.id); err != nil {
			errs = append(errs, fmt.Errorf("network of pod %s: %w", d.pod, err))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) reconnect(id string) error {
	defer m.lock(id)()
	// The device may have been removed since it was listed.
	d, err := findDevice(m.host, deviceName(id))
	if err != nil || !d.finished() {
		return err
	}
	return errors.Join(m.connect(d), m.resizeDevice(d))
}

// Detach removes a network, by the pod's UID or the name of its sandbox; one that is not there is no error. The pod's processes
// must be dead.
func (m *Manager) Detach(_ context.Context, id string) error {
	defer m.lock(id)()
	if err := m.remove(id); err != nil {
		return fmt.Errorf("network of pod %s: %w", id, err)
	}
	return nil
}

// remove takes everything of a pod away. The device's alias goes last, being the record of the address that all the rest is
// known by; without it the device is nobody's, and nobody waits for the kernel to delete it.
func (m *Manager) remove(id string) error {
	d, err := findDevice(m.host, deviceName(id))
	if err != nil {
		return err
	}
	if err := removeNamespace(m.path(id)); err != nil {
		return err
	}
	if d.index != 0 {
		if err := m.retire(d); err != nil {
			return err
		}
		m.deletions.Go(func() {
			if err := d.delete(); err != nil {
				m.cfg.Logger.Warn("a pod device stays until the next start", "error", err)
			}
		})
	}
	m.pools.Release(id)
	return nil
}

// removeDevice retires the device and waits until it is gone, and its name free.
func (m *Manager) removeDevice(d device) error {
	if err := m.retire(d); err != nil {
		return err
	}
	return d.delete()
}

// retire takes the device out of service before its address is forgotten, so that no packet revives a connection.
func (m *Manager) retire(d device) error {
	if err := d.down(m.host); err != nil {
		return err
	}
	for _, a := range d.addresses {
		if err := m.cfg.Endpoints.Delete(a); err != nil {
			return err
		}
	}
	if err := m.cfg.Programs.DetachPod(d.name, d.index); err != nil {
		return err
	}
	return d.disown(m.host)
}

// Retain removes the network of every pod that is not listed: namespaces, devices and endpoints. It repairs after a crash and
// must not run beside Attach of a pod that is not listed.
func (m *Manager) Retain(_ context.Context, ids []string) error {
	keep := map[string]bool{}
	for _, id := range ids {
		keep[id] = true
	}
	stale, err := m.staleIDs(keep)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range stale {
		m.cfg.Logger.Info("removing the network of a pod that is gone", "id", id)
		unlock := m.lock(id)
		if err := m.remove(id); err != nil {
			errs = append(errs, fmt.Errorf("network of pod %s: %w", id, err))
		}
		unlock()
	}
	return errors.Join(append(errs, m.pruneEndpoints())...)
}

// staleIDs lists the networks that have a namespace, a device or addresses, but are not to be kept.
func (m *Manager) staleIDs(keep map[string]bool) ([]string, error) {
	var stale []string
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			stale = append(stale, e.Name())
		}
	}
	devices, err := podDevices(m.host)
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		if d.finished() && !keep[d.id] && !slices.Contains(stale, d.id) {
			stale = append(stale, d.id)
		}
	}
	// A device that went with its namespace leaves the addresses.
	for _, id := range m.pools.Owners() {
		if !keep[id] && !slices.Contains(stale, id) {
			stale = append(stale, id)
		}
	}
	return stale, nil
}

// pruneEndpoints removes endpoints whose device is gone, as after somebody deleted it by hand.
func (m *Manager) pruneEndpoints() error {
	endpoints, err := m.cfg.Endpoints.List()
	if err != nil {
		return err
	}
	devices, err := podDevices(m.host)
	if err != nil {
		return err
	}
	live := map[netip.Addr]bool{}
	for _, d := range devices {
		for _, a := range d.addresses {
			live[a] = true
		}
	}
	var errs []error
	for _, e := range endpoints {
		if !live[e.Address] {
			errs = append(errs, m.cfg.Endpoints.Delete(e.Address))
		}
	}
	return errors.Join(errs...)
}

// path is where a network namespace is pinned.
func (m *Manager) path(id string) string { return filepath.Join(m.cfg.Dir, id) }

// lock serialises work on one network and returns its unlock.
func (m *Manager) lock(id string) func() {
	h := fnv.New32a()
	h.Write([]byte(id))
	mu := &m.busy[h.Sum32()%uint32(len(m.busy))]
	mu.Lock()
	return mu.Unlock
}
