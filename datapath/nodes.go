package datapath

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/podnet"
	"github.com/skep-io/skep/datapath/reconcile"
)

var (
	podPrograms    = filterPrograms{ingress: abi.ProgFromPod, egress: abi.ProgToPod}
	netdevPrograms = filterPrograms{ingress: abi.ProgFromNet, egress: abi.ProgToNet}
	overlayFilters = filterPrograms{ingress: abi.ProgFromOverlay, egress: abi.ProgToOverlay}
)

// nodes keeps the kernel's tables of nodes' addresses and of this node's devices. This node's addresses come from its devices,
// the others' from the API. It is safe for concurrent use.
type nodes struct {
	maps *bpfmap.Maps
	// own are the addresses that this node has whatever its devices say: NodeIPs and the routers'.
	own []netip.Addr
	// preferred are the NodeIPs: of a device's addresses of a family they stand for the pods, if it has them.
	preferred []netip.Addr

	// tunnel says which nodes are reached through the tunnel; masquerade are the addresses by which this node speaks there: its
	// routers'.
	tunnel     desired.TunnelMode
	masquerade desired.Device
	programs   programs

	logger *slog.Logger
	routes reconcile.Routes

	mu sync.Mutex
	// uplinks are this node's devices as rows; link is the MTU of those with its addresses; overlay is the tunnel's device, 0
	// while there is none.
	uplinks map[int]desired.Device
	link    int
	overlay int
	// resize is told how large the pods' packets may be.
	resize func(podnet.MTU) error
	// tunnelRows are the ways through the tunnel at present.
	tunnelRows map[netip.Prefix]desired.Tunnel
	tunnels    *reconcile.Rows[netip.Prefix, desired.Tunnel]
	// peers are the pods of other nodes, once the API has told.
	peers      []desired.Peer
	peersKnown bool
	local      map[netip.Addr]struct{}
	remote     map[netip.Addr]struct{}
	addresses  *reconcile.Rows[netip.Addr, desired.Node]
	devices    *reconcile.Rows[int, desired.Device]
}

func newNodes(cfg Config, m *bpfmap.Maps, p programs) (*nodes, error) {
	n := &nodes{
		maps:      m,
		logger:    cfg.Logger,
		tunnel:    cmp.Or(cfg.Tunnel, desired.TunnelAuto),
		programs:  p,
		own:       slices.Concat(cfg.NodeIPs, routers(cfg)),
		preferred: cfg.NodeIPs,
		local:     map[netip.Addr]struct{}{},
		remote:    map[netip.Addr]struct{}{},
	}
	rows, err := m.Nodes().List()
	if err != nil {
		return nil, err
	}
	// Until the API says otherwise the other nodes are where they were.
	for a, row := range rows {
		if !row.Local {
			n.remote[a] = struct{}{}
		}
	}
	if n.addresses, err = reconcile.RestoreRows[netip.Addr, desired.Node](m.Nodes()); err != nil {
		return nil, err
	}
	n.masquerade.Masquerade, n.masquerade.Masquerade6 = split(routers(cfg), func(a netip.Addr) netip.Addr { return a })
	if n.tunnelRows, err = m.Tunnels().List(); err != nil {
		return nil, err
	}
	if n.tunnels, err = reconcile.RestoreRows[netip.Prefix, desired.Tunnel](m.Tunnels()); err != nil {
		return nil, err
	}
	n.overlay = podnet.Overlay()
	n.devices, err = reconcile.RestoreRows[int, desired.Device](m.Devices())
	return n, err
}

// setUplinks takes over this node's devices. When it returns nil the kernel knows them.
func (n *nodes) setUplinks(uplinks []podnet.Uplink) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.local = map[netip.Addr]struct{}{}
	n.uplinks, n.link = map[int]desired.Device{}, podnet.LinkMTU(uplinks, n.preferred)
	for _, u := range uplinks {
		n.uplinks[u.Index] = n.device(u)
		for _, a := range u.Addresses {
			n.local[a] = struct{}{}
		}
	}
	return errors.Join(n.applyDevices(), n.applyAddresses(), n.applyPeers(), n.applyMTU())
}

// applyDevices tells the kernel of the uplinks, and of the tunnel's device as one of them.
func (n *nodes) applyDevices() error {
	rows := maps.Clone(n.uplinks)
	if n.overlay != 0 {
		rows[n.overlay] = n.masquerade
	}
	n.devices.Replace(rows)
	_, err := n.devices.Apply()
	return err
}

// device says by which addresses an uplink speaks for the pods: the node's own, else the first that it has of a family.
func (n *nodes) device(u podnet.Uplink) desired.Device {
	addresses := slices.DeleteFunc(slices.Clone(n.preferred), func(a netip.Addr) bool { return !slices.Contains(u.Addresses, a) })
	var d desired.Device
	d.Masquerade, d.Masquerade6 = split(slices.Concat(addresses, u.Addresses), func(a netip.Addr) netip.Addr { return a })
	return d
}

// setRemote takes over the addresses of all other nodes.
func (n *nodes) setRemote(addresses map[netip.Addr]struct{}) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.remote = maps.Clone(addresses)
	return n.applyAddresses()
}

func (n *nodes) applyAddresses() error {
	rows := map[netip.Addr]desired.Node{}
	for a := range n.remote {
		rows[a] = desired.Node{}
	}
	for a := range n.local {
		rows[a] = desired.Node{Local: true}
	}
	for _, a := range n.own {
		rows[a] = desired.Node{Local: true}
	}
	n.addresses.Replace(rows)
	changed, err := n.addresses.Apply()
	if changed {
		err = errors.Join(err, n.maps.RaiseEpoch())
	}
	return err
}

// uplinks acts on the node's uplinks: programs on them, rows for them.
type uplinks struct {
	programs
	nodes *nodes
	front front
}

func (u uplinks) AttachNetdev(device string, ifindex int) error {
	if err := u.programs.AttachNetdev(device, ifindex); err != nil {
		return err
	}
	// What begins a flow comes before what goes on with it.
	return u.front.attach(device, ifindex)
}

func (u uplinks) DetachNetdev(device string, ifindex int) error {
	return errors.Join(u.front.objects.DetachFront(ifindex), u.programs.DetachNetdev(device, ifindex))
}

func (u uplinks) Changed(list []podnet.Uplink) error { return u.nodes.setUplinks(list) }

// endpoints is the kernel's table of this node's pods.
type endpoints struct {
	maps     *bpfmap.Maps
	flows    *reconcile.Flows
	policies *policies
}

// Put writes a pod's row. Flows that were decided by another row for the address decide anew.
func (e endpoints) Put(endpoint desired.Endpoint) error {
	before, existed, err := e.policies.put(endpoint)
	if err != nil {
		return err
	}
	if existed && before.IfIndex != endpoint.IfIndex {
		return e.maps.RaiseEpoch()
	}
	return nil
}

// Delete removes a pod's row, and soon the flows of its address.
func (e endpoints) Delete(a netip.Addr) error {
	if err := e.policies.delete(a); err != nil {
		return err
	}
	e.flows.Forget(a)
	return e.maps.RaiseEpoch()
}

func (e endpoints) List() ([]desired.Endpoint, error) { return e.maps.Endpoints() }
