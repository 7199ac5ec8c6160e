package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/skep-io/skep/datapath/cni"
)

func cniCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cni",
		Short: "Be the CNI plugin of this node's agent, as a container runtime executes it",
		Long: `Answer one command of the Container Network Interface (1.1.0 and before): it is in the environment, the network's configuration
on standard input. "skep agent --network-only" installs this binary as plugin, in which form it needs no argument.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if os.Getenv("CNI_COMMAND") == "" {
				return errors.New("no CNI_COMMAND in the environment: this is for container runtimes")
			}
			os.Exit(cni.Plugin())
			return nil
		},
	}
}
