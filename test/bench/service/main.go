// Command service measures skep's Services beside kube-proxy's: all get the same objects from one API server, each has a node of its
// own in network namespaces, with the same topology: a backend, a client within and a client outside. A load visits the ways to the
// backend in turn, and the medians of the rounds stand side by side. It needs root, a built skep and a kube-proxy
// (test/bench/kubeproxy).
//
//	go build -C test/bench/kubeproxy -o /tmp/kube-proxy . && go run ./test/bench/service -skep bin/skep -kube-proxy /tmp/kube-proxy -services 1,1000,10000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

type options struct {
	skep, kubeProxy, services string
	workers, rounds, trials   int
	// endpoints is how many each of the many Services has.
	endpoints int
	length    time.Duration
	// far has the backend outside the nodes.
	far bool
}

func main() {
	// The processes that it starts end with the thread that did, see within.
	runtime.LockOSThread()
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context) error {
	if len(os.Args) > 1 && os.Args[1] == nodeRole {
		return runNode(ctx, os.Args[2:])
	}
	var o options
	flag.StringVar(&o.skep, "skep", "bin/skep", "the skep binary")
	flag.StringVar(&o.kubeProxy, "kube-proxy", "", "the kube-proxy binary; empty: skep alone")
	flag.StringVar(&o.services, "services", "1,1000,10000", "how many Services, each number in turn")
	flag.IntVar(&o.workers, "workers", 16, "connections in flight")
	flag.IntVar(&o.rounds, "rounds", 15, "how often each path is measured; 0: only what it takes to follow so many Services")
	flag.IntVar(&o.endpoints, "endpoints", 2, "how many endpoints each of the many Services has")
	flag.IntVar(&o.trials, "trials", 10, "how often an endpoint is changed")
	flag.DurationVar(&o.length, "length", 250*time.Millisecond, "time of one measurement of one kind")
	flag.BoolVar(&o.far, "far", false, "the backend is beyond the node, as pods of other nodes are, and node ports lead to it: by tc, by XDP, by kube-proxy")
	flag.Parse()
	return run(ctx, o)
}

// backend is the address of the backend.
func (o options) backend() netip.Addr {
	if o.far {
		return farIP
	}
	return backendIP
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "skep-bench-service-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	api, err := startAPI(ctx, dir, o.backend())
	if err != nil {
		return fmt.Errorf("start the API server: %w", err)
	}
	defer api.stop()
	nodes, err := makeNodes(ctx, o, api, dir)
	defer func() {
		for _, n := range nodes {
			err = errors.Join(err, n.remove())
		}
	}()
	if err != nil {
		return err
	}
	made := 0
	for text := range strings.SplitSeq(o.services, ",") {
		count, err := strconv.Atoi(text)
		if err != nil || count < 1 {
			return fmt.Errorf("-services: %q is no number of Services", text)
		}
		fmt.Fprintf(os.Stderr, "making %d Services\n", count)
		if err := api.fill(ctx, made, count-1, o.endpoints); err != nil {
			return fmt.Errorf("make Services: %w", err)
		}
		made = max(made, count-1)
		if err := compare(ctx, o, api, nodes, count); err != nil {
			return err
		}
	}
	return nil
}
