package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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
	run := cmd.Flags().String("run-dir", defaultPaths().run, "run directory of this machine's node")
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
		node := defaultNodeConfig()
		node.paths.run = *run
		store, done, err := openImages(node)
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
	var o bench.DNSOptions
	var peer, binary string
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Look-ups of cluster names from a pod",
		Args:  cobra.NoArgs,
		Long: `Look-ups of cluster names from a pod, each case in turn, medians over the rounds. A row has the server, the case (existing
or nxdomain), the most look-ups a second with --workers outstanding, the 50th and 99th percentile of a look-up's time with one
outstanding, and the CPU time of the whole machine, client included, for each look-up. The client sends and receives in batches.

With --peer coredns, three servers answer for one cluster and are measured in turn with each number of --services: the cluster's own
DNS as pods have it (skep), its server alone without the kernel's help (skep-server), and CoreDNS with a socket for each CPU and its
cache. Rows have besides: times at half of the most that CoreDNS answers, the CPU time of the server's process, a resolver's walk of its search list
to a name outside the cluster whose answer is cached, memory, the time from an acknowledged change to the first answer that follows
it, and what dnsperf finds where it is installed. It takes root on the cluster's only node, or on the one that the load pod comes to, and minutes.`,
		Example: `  skep bench dns --workers 32
  skep bench dns --peer coredns --services 1000,10000 --rounds 5
  skep bench dns --peer coredns --peer-binary ./coredns -o json`,
	}
	loadFlags(cmd, &o.Load)
	cmd.Flags().StringVar(&peer, "peer", "", "server to measure beside: coredns")
	cmd.Flags().StringVar(&binary, "peer-binary", "", "its program; default: built from test/bench/coredns of the checkout that this directory is in")
	cmd.Flags().IntSliceVar(&o.Services, "services", []int{1000, 10000}, "with --peer: how many Services there are, one number after the other")
	cmd.Flags().IntVar(&o.Trials, "trials", 20, "with --peer: Services made and removed to see how soon names follow")
	connect := benchFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if peer != "" {
			if peer != "coredns" {
				return fmt.Errorf("--peer %q: only coredns is known", peer)
			}
			peers, done, err := dnsPeers(cmd.Context(), binary)
			if err != nil {
				return err
			}
			defer done()
			o.Peers = peers
		}
		b, err := connect(cmd.Context())
		if err != nil {
			return err
		}
		return bench.DNS(cmd.Context(), b, o)
	}
	return cmd
}

// dnsPeers are the servers to measure the cluster's own beside; the last is the one to compare with. done removes what was built.
func dnsPeers(ctx context.Context, binary string) (peers []bench.Peer, done func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	done = func() {}
	if binary == "" {
		dir, err := os.MkdirTemp("", "skep-bench-coredns-")
		if err != nil {
			return nil, nil, err
		}
		done = func() { _ = os.RemoveAll(dir) } // a leftover of the run
		binary = filepath.Join(dir, "coredns")
		if err := buildPeer(ctx, binary); err != nil {
			done()
			return nil, nil, err
		}
	}
	return []bench.Peer{bench.ServerAlone(self), bench.CoreDNS(binary)}, done, nil
}

// buildPeer builds CoreDNS from the checkout that the current directory is in.
func buildPeer(ctx context.Context, binary string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	for module := ""; ; dir = filepath.Dir(dir) {
		module = filepath.Join(dir, "test", "bench", "coredns")
		if _, err := os.Stat(filepath.Join(module, "go.mod")); err == nil {
			fmt.Fprintln(os.Stderr, "building CoreDNS: minutes the first time")
			if out, err := exec.CommandContext(ctx, "go", "build", "-C", module, "-o", binary, ".").CombinedOutput(); err != nil {
				return fmt.Errorf("build CoreDNS: %w: %s", err, out)
			}
			return nil
		}
		if dir == filepath.Dir(dir) {
			return errors.New("no checkout of skep to build CoreDNS from here: change into one, or give --peer-binary")
		}
	}
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
		fmt.Println(os.Getpid()) // for who enters its network
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
