package datapath

import (
	"net/netip"
	"slices"

	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/reconcile"
)

// setPeers takes over which pods the other nodes have, and routes to them.
func (n *nodes) setPeers(peers []desired.Peer) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers, n.peersKnown = slices.Clone(peers), true
	return n.applyPeers()
}

// applyPeers routes to the pods of every node that shares a network with this one. It is called again when this node's devices
// or addresses change: a route goes with its device. Until the API has named the nodes, routes stay as they were.
func (n *nodes) applyPeers() error {
	if !n.peersKnown {
		return nil
	}
	want := map[netip.Prefix]desired.Route{}
	for _, p := range n.peers {
		device, direct := n.routes.Connected(p.Node)
		if direct && p.Pods.Addr().Is4() == p.Node.Is4() {
			want[p.Pods] = desired.Route{Device: device, Gateway: p.Node}
			continue
		}
		n.logger.Warn("the pods of a node are out of reach: it shares no network with this one", "node", p.Node, "pods", p.Pods)
	}
	return n.routes.Apply(want)
}

// clearPeers removes the routes to other nodes' pods.
func clearPeers() error { return reconcile.Routes{}.Clear() }
