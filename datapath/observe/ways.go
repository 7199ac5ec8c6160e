package observe

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// Way is how this node reaches the pods of another one.
type Way struct {
	Pods string `json:"pods"`
	// Name is the node's name, empty where the API does not tell.
	Name string `json:"name,omitempty"`
	Node string `json:"node"`
	// Way is "direct" or "tunnel".
	Way    string `json:"way"`
	Device string `json:"device"`
	// MTU is the largest packet that gets there.
	MTU int `json:"mtu"`
}

// Header names the columns.
func (Way) Header() []string { return []string{"PODS", "NODE", "ADDRESS", "WAY", "DEVICE", "MTU"} }

// Cells are the columns of one row.
func (w Way) Cells() []string {
	return []string{w.Pods, cmp.Or(w.Name, "-"), w.Node, w.Way, cmp.Or(w.Device, "-"), fmt.Sprint(w.MTU)}
}

// Ways lists how the pods of other nodes are reached, by the kernel's routes to them. names are the nodes' names by address.
func Ways(m *bpfmap.Maps, routes map[netip.Prefix]desired.Route, names map[netip.Addr]string) ([]Way, error) {
	tunnels, err := m.Tunnels().List()
	if err != nil {
		return nil, err
	}
	rows := []Way{}
	for pods, r := range routes {
		row := Way{Pods: pods.String(), Way: "direct", MTU: r.MTU}
		node := r.Gateway
		if to, ok := tunnels[pods]; ok {
			row.Way, node = "tunnel", to.Node
		}
		row.Node, row.Name = node.String(), names[node]
		if device, err := net.InterfaceByIndex(r.Device); err == nil {
			row.Device, row.MTU = device.Name, cmp.Or(r.MTU, device.MTU)
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b Way) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Pods, b.Pods)) })
	return rows, nil
}
