package main

import (
	"context"
	"net/netip"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/observe"
	"github.com/skep-io/skep/datapath/reconcile"
	"github.com/skep-io/skep/datapath/translate"
)

// netNodesCommand shows by which way the pods of other nodes are reached. Names come from the API, the rest from the kernel.
func netNodesCommand(o *netOptions) *cobra.Command {
	var ctx context.Context
	cmd := netTableCommand(o, "nodes", "Other nodes: the way to their pods, direct or through the tunnel", func(m *bpfmap.Maps, _ observe.Names) ([]observe.Way, error) {
		routes, err := reconcile.Routes{}.List()
		if err != nil {
			return nil, err
		}
		return observe.Ways(m, routes, o.nodeNames(ctx))
	})
	cmd.PreRun = func(cmd *cobra.Command, _ []string) { ctx = cmd.Context() }
	return cmd
}

// nodeNames are the nodes' names by address; none where the API does not answer.
func (o *netOptions) nodeNames(ctx context.Context) map[netip.Addr]string {
	names := map[netip.Addr]string{}
	cfg, err := adminConfig(o.kubeconfig)
	if err != nil {
		return names
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return names
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return names
	}
	for i := range nodes.Items {
		for _, a := range translate.NodeAddresses(&nodes.Items[i]) {
			names[a] = nodes.Items[i].Name
		}
	}
	return names
}
