package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/cmd/skep/bench"
)

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure Services, DNS and pod starts of this cluster",
		Long: `Measure this cluster from inside. Each benchmark makes a namespace, runs both of its sides as pods, and removes it again.
Paths alternate within one run and medians are reported, since machines drift.`,
	}
	cmd.AddCommand(benchServiceCommand(), benchDNSCommand(), benchPodsCommand(),
		benchPeerCommand(), benchClientCommand(), benchLookupsCommand(), benchIdleCommand(), benchHammerCommand())
	return cmd
}

// benchFlags adds the flags of every benchmark and returns what makes its Bench.
func benchFlags(cmd *cobra.Command) func(context.Context) (*bench.Bench, error) {
	kubeconfig := cmd.Flags().String("kubeconfig", "", "kubeconfig of an administrator; default: $KUBECONFIG, else this machine's node")
	output := cmd.Flags().StringP("output", "o", "", "json prints one object on standard output")
	domain := cmd.Flags().String("cluster-domain", defaultDomain, "the cluster's DNS domain")
	return func(ctx context.Context) (*bench.Bench, error) {
		if *output != "" && *output != "json" {
			return nil, fmt.Errorf("--output %q: only json is known", *output)
		}
		cfg, err := adminConfig(*kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read kubeconfig (is the node up? start it with `skep up`): %w", err)
		}
		cfg.QPS = -1
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return nil, err
		}
		store, done, err := openImages(defaultNodeConfig())
		if err != nil {
			return nil, err
		}
		defer done()
		if err := ensureSelf(ctx, store); err != nil {
			return nil, err
		}
		return &bench.Bench{Client: client, Config: cfg, Image: selfImage, Domain: *domain, Out: os.Stdout, Progress: os.Stderr, JSON: *output == "json"}, nil
	}
}

func loadFlags(cmd *cobra.Command, load *bench.Load) {
	cmd.Flags().IntVar(&load.Workers, "workers", 16, "connections or look-ups in flight")
	cmd.Flags().IntVar(&load.Rounds, "rounds", 9, "how often each path is measured")
	cmd.Flags().DurationVar(&load.Length, "length", 500*time.Millisecond, "time of one measurement")
}

func benchServiceCommand() *cobra.Command {
	return loadCommand(bench.Service, cobra.Command{
		Use:   "service",
		Short: "A pod reaching a pod: directly, through a cluster IP, through a node port",
		Example: `  skep bench service
  skep bench service --rounds 15 -o json`,
	})
}

func benchDNSCommand() *cobra.Command {
	return loadCommand(bench.DNS, cobra.Command{
		Use:   "dns",
		Short: "Look-ups of cluster names from a pod",
		Long: `Look-ups of cluster names from a pod, each case in turn, medians over the rounds. A row has the server, the case (existing
or nxdomain), look-ups a second with --workers outstanding, the 50th and 99th percentile of a look-up's time with one outstanding,
and the CPU time of the whole machine, client included, for each look-up. The client sends and receives in batches.`,
		Example: `  skep bench dns --workers 32`,
	})
}

// loadCommand is a command that runs a benchmark with a load.
func loadCommand(measure func(context.Context, *bench.Bench, bench.Load) error, cmd cobra.Command) *cobra.Command {
	var load bench.Load
	cmd.Args = cobra.NoArgs
	loadFlags(&cmd, &load)
	connect := benchFlags(&cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		b, err := connect(cmd.Context())
		if err != nil {
			return err
		}
		return measure(cmd.Context(), b, load)
	}
	return &cmd
}

func benchPodsCommand() *cobra.Command {
	var counts bench.PodCounts
	cmd := &cobra.Command{
		Use:     "pods",
		Short:   "Pod starts, one at a time and in a burst",
		Example: `  skep bench pods --serial 20 --burst 30 -o json`,
		Args:    cobra.NoArgs,
	}
	cmd.Flags().IntVar(&counts.Serial, "serial", 20, "pods started one at a time")
	cmd.Flags().IntVar(&counts.Burst, "burst", 30, "pods started at once")
	connect := benchFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		b, err := connect(cmd.Context())
		if err != nil {
			return err
		}
		return bench.Pods(cmd.Context(), b, counts)
	}
	return cmd
}

// The commands below are what the benchmarks' pods run.

func benchPeerCommand() *cobra.Command {
	return &cobra.Command{Use: "peer", Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return bench.ServePeer(cmd.Context())
	}}
}

func benchIdleCommand() *cobra.Command {
	return &cobra.Command{Use: "idle", Hidden: true, Args: cobra.NoArgs, Run: func(cmd *cobra.Command, _ []string) {
		<-cmd.Context().Done()
	}}
}

func benchClientCommand() *cobra.Command {
	return sideCommand("client", "target", bench.ParseTarget, bench.RunClient)
}

func benchLookupsCommand() *cobra.Command {
	return sideCommand("lookups", "lookup", bench.ParseLookup, bench.RunLookups)
}

// sideCommand is the load side of a benchmark: it parses each value of the flag and runs the load on them.
func sideCommand[T any](use, flag string, parse func(string) (T, error), run func(bench.Load, []T, io.Writer) error) *cobra.Command {
	var load bench.Load
	cmd := &cobra.Command{Use: use, Hidden: true, Args: cobra.NoArgs}
	loadFlags(cmd, &load)
	values := cmd.Flags().StringArray(flag, nil, "what to load")
	cmd.RunE = func(*cobra.Command, []string) error {
		var parsed []T
		for _, v := range *values {
			t, err := parse(v)
			if err != nil {
				return err
			}
			parsed = append(parsed, t)
		}
		return run(load, parsed, os.Stdout)
	}
	return cmd
}

func benchHammerCommand() *cobra.Command {
	var h bench.Hammer
	cmd := &cobra.Command{Use: "hammer", Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return h.Run(cmd.Context(), os.Stdout)
	}}
	cmd.Flags().StringVar(&h.URL, "url", "", "what to request")
	cmd.Flags().IntVar(&h.Workers, "workers", 4, "requests in flight")
	cmd.Flags().StringVar(&h.Held, "held", "", "TCP address to hold a connection to")
	cmd.Flags().StringVar(&h.Datagram, "udp", "", "UDP address to ask from a socket that is not connected")
	cmd.Flags().StringVar(&h.Connected, "connected-udp", "", "UDP address to ask from a connected socket")
	cmd.Flags().DurationVar(&h.Timeout, "timeout", 5*time.Second, "how long an HTTP request may take")
	cmd.Flags().DurationVar(&h.Pause, "pause", 2*time.Millisecond, "between two requests of a worker")
	return cmd
}
