package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/skep-io/skep/datapath"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/observe"
	"github.com/skep-io/skep/datapath/reconcile"
)

// netOptions are the flags of the commands that read the kernel's tables.
type netOptions struct {
	bpf, kubeconfig, output string
}

func netCommand() *cobra.Command {
	o := netOptions{}
	cmd := &cobra.Command{
		Use:   "net",
		Short: "Look into this node's network",
		Long: `Look into this node's network: the commands read the kernel's own tables and work while the node's process is gone.
Names of Services and pods come from the API server where it answers.`,
		Example: `  skep net services
  skep net drops -o json`,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&o.bpf, "bpf-dir", defaultPaths().bpf, "where the node's maps are pinned")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig for names; default: $KUBECONFIG, else this machine's node")
	f.StringVarP(&o.output, "output", "o", "", "json or yaml; default: a table")
	cmd.AddCommand(
		netTableCommand(&o, "services", "Services: where they answer, and what serves them", observe.Services),
		netTableCommand(&o, "backends", "Addresses that serve, and the Services that lead there", observe.Backends),
		netTableCommand(&o, "endpoints", "This node's pods: address, device, hardware address", observe.Endpoints),
		netNodesCommand(&o),
		netTableCommand(&o, "conntrack", "Connections that cross the packet programs", func(m *bpfmap.Maps, names observe.Names) ([]observe.Flow, error) {
			return observe.Flows(m, names, reconcile.SweepPeriod)
		}),
		netTableCommand(&o, "drops", "Dropped packets by reason", func(m *bpfmap.Maps, _ observe.Names) ([]observe.Drop, error) {
			return observe.Drops(m)
		}),
		netObserveCommand(&o),
		netPolicyCommand(&o),
		netTraceCommand(&o),
		netCallCommand(),
	)
	return cmd
}

// netTableCommand prints the rows that read gives.
func netTableCommand[R observe.Row](o *netOptions, name, short string, read func(*bpfmap.Maps, observe.Names) ([]R, error)) *cobra.Command {
	return &cobra.Command{
		Use:     name,
		Short:   short,
		Example: "  skep net " + name + "\n  skep net " + name + " -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := bpfmap.Open(datapath.MapsDir(o.bpf))
			if err != nil {
				return fmt.Errorf("open the network's maps (is a node up? start it with `skep up`): %w", err)
			}
			defer m.Close()
			rows, err := read(m, o.names(cmd.Context()))
			if err != nil {
				return err
			}
			return printRows(o.output, rows)
		},
	}
}

func printRows[R observe.Row](output string, rows []R) error {
	return printAs(os.Stdout, output, rows, func(out io.Writer) error { return observe.WriteTable(out, rows) })
}

// printAs writes a value in the form that --output names; text is for people.
func printAs(out io.Writer, output string, value any, text func(io.Writer) error) error {
	switch output {
	case "":
		return text(out)
	case "json":
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(value)
	case "yaml":
		data, err := yaml.Marshal(value)
		if err != nil {
			return err
		}
		_, err = out.Write(data)
		return err
	}
	return fmt.Errorf("--output %q: json and yaml are known", output)
}

// names asks the API server for names. Without it rows show addresses alone.
func (o *netOptions) names(ctx context.Context) observe.Names {
	names := observe.Names{Services: map[netip.AddrPort]string{}, Pods: map[netip.Addr]string{}}
	cfg, err := adminConfig(o.kubeconfig)
	if err != nil {
		return names
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return names
	}
	if services, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{}); err == nil {
		for i := range services.Items {
			nameService(names.Services, &services.Items[i])
		}
	}
	if pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); err == nil {
		for _, p := range pods.Items {
			if p.Spec.HostNetwork {
				continue
			}
			for _, ip := range p.Status.PodIPs {
				if addr, err := netip.ParseAddr(ip.IP); err == nil {
					names.Pods[addr] = p.Namespace + "/" + p.Name
				}
			}
		}
	}
	return names
}

func nameService(names map[netip.AddrPort]string, svc *corev1.Service) {
	for _, p := range svc.Spec.Ports {
		name := svc.Namespace + "/" + svc.Name
		if p.Name != "" {
			name += ":" + p.Name
		}
		for _, ip := range svc.Spec.ClusterIPs {
			if addr, err := netip.ParseAddr(ip); err == nil {
				names[netip.AddrPortFrom(addr, uint16(p.Port))] = name
			}
		}
		if p.NodePort != 0 {
			names[netip.AddrPortFrom(desired.AnyLocal, uint16(p.NodePort))] = name
			names[netip.AddrPortFrom(desired.AnyLocal6, uint16(p.NodePort))] = name
		}
	}
}
