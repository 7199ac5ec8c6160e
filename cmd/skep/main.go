// Command skep is a whole Kubernetes-API-compatible cluster in one binary: control plane, node agent, eBPF network, cluster
// DNS, and the command line that drives them. This package only wires: flags to configurations, constructors to each other.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/skep-io/skep/datapath/cni"
)

func main() {
	if cni.Invoked() {
		os.Exit(cni.Plugin())
	}
	os.Exit(run(os.Args[1:]))
}

// run executes one command line and returns the exit code.
func run(args []string) int {
	own := ownCommands()
	if len(args) > 0 && slices.ContainsFunc(own, func(c *cobra.Command) bool { return c.Name() == args[0] }) {
		// Only here: the verbs of kubectl leave the signals to their defaults, or handle them themselves.
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		root := &cobra.Command{Use: "skep", SilenceUsage: true, SilenceErrors: true}
		root.AddCommand(own...)
		root.SetArgs(args)
		if err := root.ExecuteContext(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			return 1
		}
		return 0
	}
	return runKubectl(own, args)
}

// ownCommands are the commands that kubectl does not have.
func ownCommands() []*cobra.Command {
	return []*cobra.Command{
		upCommand(),
		serverCommand(),
		agentCommand(),
		tokenCommand(),
		downCommand(),
		netCommand(),
		dnsCommand(),
		benchCommand(),
		imageCommand(),
		serveCommand(),
		cniCommand(),
	}
}
