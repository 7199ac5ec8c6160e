package datapath

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/podnet"
	"github.com/skep-io/skep/datapath/reconcile"
)

// What the tunnel adds to a packet: an IP header, UDP, VXLAN, and the frame's own header.
const (
	tunnelOverhead  = 50
	tunnelOverhead6 = 70
)

// minMTU is what every link must carry.
const minMTU = 1280

// The next hop of routes into the tunnel. It is nobody: the tunnel's program knows the node by the pod's address.
var (
	tunnelGateway  = netip.AddrFrom4([4]byte{169, 254, 83, 1})
	tunnelGateway6 = netip.MustParseAddr("fe80::53:1")
)

// setPeers takes over which pods the other nodes have, and how to get to them.
func (n *nodes) setPeers(peers []desired.Peer) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers, n.peersKnown = slices.Clone(peers), true
	return n.applyPeers()
}

// ways are how this node reaches the pods of the others.
type ways struct {
	routes  map[netip.Prefix]desired.Route
	tunnels map[netip.Prefix]desired.Tunnel
}

// findWays decides for each range of pods: directly where its node is a neighbour of the same family, else through the tunnel.
func (n *nodes) findWays() ways {
	w := ways{map[netip.Prefix]desired.Route{}, map[netip.Prefix]desired.Tunnel{}}
	for _, p := range n.peers {
		path, ok := n.routes.Path(p.Node)
		direct := ok && path.Direct && p.Pods.Addr().Is4() == p.Node.Is4()
		switch {
		case direct && n.tunnel != desired.TunnelAlways:
			w.routes[p.Pods] = desired.Route{Device: path.Device, Gateway: p.Node}
		case ok && n.tunnel != desired.TunnelNever && n.router(p.Pods).IsValid():
			overhead := tunnelOverhead
			if p.Node.Is6() {
				overhead = tunnelOverhead6
			}
			w.tunnels[p.Pods] = desired.Tunnel{Node: p.Node, MTU: max(minMTU, path.MTU-overhead)}
		default:
			n.logger.Warn("the pods of a node are out of reach", "node", p.Node, "pods", p.Pods, "tunnel", n.tunnel)
		}
	}
	return w
}

// router is this node's own address of a range's family.
func (n *nodes) router(pods netip.Prefix) netip.Addr {
	if pods.Addr().Is4() {
		return n.masquerade.Masquerade
	}
	return n.masquerade.Masquerade6
}

// applyPeers leads to the pods of every other node. It is called again when this node's devices, addresses or routes change: a
// route goes with its device. Until the API has named the nodes and the kernel the devices, all
// stays as it was.
func (n *nodes) applyPeers() error {
	if !n.peersKnown || n.uplinks == nil {
		return nil
	}
	w := n.findWays()
	device, err := n.applyOverlay(w)
	if err != nil {
		return err
	}
	for pods, to := range w.tunnels {
		gateway := tunnelGateway
		if pods.Addr().Is6() {
			gateway = tunnelGateway6
		}
		w.routes[pods] = desired.Route{Device: device, Gateway: gateway, OnLink: pods.Addr().Is4(), Source: n.router(pods), MTU: to.MTU}
	}
	// A route into the tunnel needs its row, which therefore comes before it and goes after it.
	both := maps.Clone(n.tunnelRows)
	maps.Copy(both, w.tunnels)
	n.tunnels.Replace(both)
	if _, err := n.tunnels.Apply(); err != nil {
		return err
	}
	if err := n.routes.Apply(w.routes); err != nil {
		return err
	}
	n.tunnelRows = w.tunnels
	n.tunnels.Replace(w.tunnels)
	_, err = n.tunnels.Apply()
	return errors.Join(err, n.applyMTU())
}

// applyOverlay makes the tunnel's device, or removes it. It is there as soon as there is another node: that one may send through
// the tunnel what this node would not.
func (n *nodes) applyOverlay(w ways) (device int, err error) {
	if len(n.peers) == 0 || n.tunnel == desired.TunnelNever {
		n.overlay = 0
		return 0, errors.Join(podnet.RemoveOverlay(), n.applyDevices())
	}
	mtu := n.link - tunnelOverhead6
	for _, t := range w.tunnels {
		mtu = max(mtu, t.MTU)
	}
	device, err = podnet.EnsureOverlay(mtu, n.masquerade.Masquerade6.IsValid())
	if err != nil {
		return 0, err
	}
	n.overlay = device
	if err := n.applyDevices(); err != nil {
		return 0, err
	}
	return device, n.programs.AttachOverlay(device)
}

// mtu is how large the pods' packets may be.
func (n *nodes) mtu() podnet.MTU {
	mtu := podnet.MTU{Device: n.link}
	for _, t := range n.tunnelRows {
		if mtu.Peers == 0 || t.MTU < mtu.Peers {
			mtu.Peers = t.MTU
		}
	}
	return mtu
}

// applyMTU tells the pods.
func (n *nodes) applyMTU() error {
	if n.resize == nil {
		return nil
	}
	return n.resize(n.mtu())
}

// setResize has f told how large the pods' packets may be, now and at every change.
func (n *nodes) setResize(f func(podnet.MTU) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.resize = f
	return n.applyMTU()
}

// pathPeriod is how often the ways to other nodes are looked at: of what a router on the way says, no event tells.
const pathPeriod = 10 * time.Second

// followPaths finds out how large packets to the nodes behind the tunnel may be, until ctx ends.
func (n *nodes) followPaths(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pathPeriod):
		}
		if err := n.checkPaths(); err != nil {
			n.logger.Warn("ways to other nodes", "error", err)
		}
	}
}

// checkPaths takes over what the kernel has learnt since, and asks again.
func (n *nodes) checkPaths() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.tunnelRows) == 0 {
		return nil
	}
	err := n.applyPeers()
	asked := map[netip.Addr]bool{}
	for _, t := range n.tunnelRows {
		if !asked[t.Node] {
			asked[t.Node] = true
			err = errors.Join(err, n.routes.Probe(t.Node, n.link))
		}
	}
	return err
}

// clearPeers removes the routes to other nodes' pods.
func clearPeers() error { return reconcile.Routes{}.Clear() }
