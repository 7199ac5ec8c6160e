package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/util/templates"
)

// runKubectl runs a verb of kubectl, or the help of all commands, ours first. Without --kubeconfig and KUBECONFIG the
// kubeconfig of this machine's node is used where it can be read.
func runKubectl(own []*cobra.Command, args []string) int {
	if os.Getenv("KUBECONFIG") == "" {
		if file := defaultPaths().kubeconfig(); readable(file) {
			os.Setenv("KUBECONFIG", file)
		}
	}
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	root := kubectl.NewKubectlCommand(kubectl.KubectlOptions{
		Arguments:   append([]string{"skep"}, args...),
		ConfigFlags: genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50),
		IOStreams:   streams,
	})
	groups := templates.CommandGroups{{Message: "Cluster Commands:", Commands: own}, {Message: "kubectl Commands:", Commands: root.Commands()}}
	root.Use = "skep"
	root.Short = "a whole Kubernetes-compatible cluster in one binary"
	root.Long = templates.LongDesc(`
		skep is a whole Kubernetes-compatible cluster in one binary, with an eBPF network.

		Start a node with "skep up", look into its network with "skep net", measure it with "skep bench",
		and drive it with every verb of kubectl: "skep get pods", "skep apply -f FILE", "skep logs", ….`)
	root.AddCommand(own...)
	templates.ActsAsRootCommand(root, []string{"options"}, groups...)
	root.SetArgs(args)
	return cli.Run(root)
}

func readable(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
