package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/datapath"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/observe"
)

func netPolicyCommand(o *netOptions) *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:   "policy POD",
		Short: "What network policies allow to a pod, why, and whether the kernel agrees",
		Long: `What network policies allow to a pod: for each direction the policies that isolate it, the peers and ports that are allowed and
by which policy, the numbers of the kernel's sets, and every difference between the kernel's tables and the API.
The node's own processes always reach its pods.`,
		Example: `  skep net policy web-5d4f
  skep net policy default/web-5d4f -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if ns, n, ok := strings.Cut(name, "/"); ok {
				namespace, name = ns, n
			}
			p, err := o.podPolicy(cmd.Context(), namespace, name)
			if err != nil {
				return err
			}
			return printAs(os.Stdout, o.output, p, p.WriteText)
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", metav1.NamespaceDefault, "namespace of the pod")
	return cmd
}

func (o *netOptions) podPolicy(ctx context.Context, namespace, name string) (observe.PodPolicy, error) {
	m, err := bpfmap.Open(datapath.MapsDir(o.bpf))
	if err != nil {
		return observe.PodPolicy{}, fmt.Errorf("open the network's maps (is a node up? start it with `skep up`): %w", err)
	}
	defer m.Close()
	cfg, err := adminConfig(o.kubeconfig)
	if err != nil {
		return observe.PodPolicy{}, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return observe.PodPolicy{}, err
	}
	objects, err := policyObjects(ctx, client)
	if err != nil {
		return observe.PodPolicy{}, err
	}
	return observe.ReadPolicy(m, objects, namespace, name)
}

// policyObjects asks for all that policies rest on.
func policyObjects(ctx context.Context, client kubernetes.Interface) (observe.PolicyObjects, error) {
	var objects observe.PolicyObjects
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return objects, err
	}
	namespaces, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return objects, err
	}
	policies, err := client.NetworkingV1().NetworkPolicies("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return objects, err
	}
	return observe.PolicyObjects{Pods: pods.Items, Namespaces: namespaces.Items, Policies: policies.Items}, nil
}
