package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/skep-io/skep/cmd/skep/echo"
)

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a small test server",
	}
	cmd.AddCommand(serveEchoCommand())
	return cmd
}

func serveEchoCommand() *cobra.Command {
	cfg := echo.Config{}
	cmd := &cobra.Command{
		Use:   "echo",
		Short: "Answer over HTTP, TCP and UDP with this pod's name",
		Example: `  # What the demo's pods run
  skep serve echo --http :8080 --tcp :8081 --udp :8081`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Name == "" {
				host, err := os.Hostname()
				if err != nil {
					return err
				}
				cfg.Name = host
			}
			return echo.Serve(cmd.Context(), cfg)
		},
	}
	cmd.Flags().StringVar(&cfg.Name, "name", os.Getenv("POD_NAME"), "what to answer; default: $POD_NAME, else the host name")
	cmd.Flags().StringVar(&cfg.HTTP, "http", ":8080", "address for HTTP, empty for none")
	cmd.Flags().StringVar(&cfg.TCP, "tcp", ":8081", "address for TCP (an answer a line), empty for none")
	cmd.Flags().StringVar(&cfg.UDP, "udp", ":8081", "address for UDP (an answer a datagram), empty for none")
	cmd.Flags().DurationVar(&cfg.Drain, "drain", time.Second, "how long to go on serving after a request to stop")
	return cmd
}
