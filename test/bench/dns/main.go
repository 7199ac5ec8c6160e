// Command dns measures skep's DNS server beside CoreDNS: both serve the same API server's objects on this machine, a load in a
// network namespace of its own asks them in turn, and the medians of the rounds stand side by side. It needs root, a built skep and
// a CoreDNS (test/bench/coredns).
//
//	go build -C test/bench/coredns -o /tmp/coredns . && go run ./test/bench/dns -skep bin/skep -coredns /tmp/coredns -services 1000,10000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/skep-io/skep/control/apiserver"
	"github.com/skep-io/skep/control/apiserver/allocation"
	"github.com/skep-io/skep/control/etcd"
	"github.com/skep-io/skep/control/pki"
)

// Addresses of the link between the servers and the load.
const (
	serverIP = "198.18.95.1"
	loadIP   = "198.18.95.2"
	domain   = "cluster.local"
	apiPort  = 16643
)

type options struct {
	skep, coredns, services string
	workers, rounds, trials int
	length                  time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.skep, "skep", "bin/skep", "the skep binary")
	flag.StringVar(&o.coredns, "coredns", "", "the CoreDNS binary")
	flag.StringVar(&o.services, "services", "1000,10000", "how many Services, each number in turn")
	flag.IntVar(&o.workers, "workers", 128, "look-ups in flight")
	flag.IntVar(&o.rounds, "rounds", 5, "how often each server is measured")
	flag.IntVar(&o.trials, "trials", 20, "Services made and removed to see how soon names follow")
	flag.DurationVar(&o.length, "length", time.Second, "time of one measurement")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	dir, err := os.MkdirTemp("", "skep-bench-dns-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client, stopAPI, err := startAPI(ctx, dir)
	if err != nil {
		return fmt.Errorf("start the API server: %w", err)
	}
	defer stopAPI()
	netns := "skep-bench-dns-" + strconv.Itoa(os.Getpid())
	defer func() { err = errors.Join(err, unlink(netns)) }()
	if err := link(netns); err != nil {
		return err
	}
	made := 0
	for _, text := range strings.Split(o.services, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("-services: %w", err)
		}
		if err := makeServices(ctx, client, made, n); err != nil {
			return fmt.Errorf("make Services: %w", err)
		}
		made = max(made, n)
		if err := compare(ctx, o, client, dir, netns, n); err != nil {
			return err
		}
	}
	return nil
}

// startAPI runs etcd and the API server in this process.
func startAPI(ctx context.Context, dir string) (kubernetes.Interface, func(), error) {
	logger := slog.New(slog.DiscardHandler)
	store, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(dir, "etcd"), Logger: logger})
	if err != nil {
		return nil, nil, err
	}
	ip := netip.MustParseAddr("127.0.0.1")
	keys, err := pki.Ensure(filepath.Join(dir, "pki"), pki.Names{DNS: []string{"localhost"}, IPs: []netip.Addr{ip, netip.MustParseAddr("10.96.0.1")}})
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	s, err := apiserver.New(ctx, apiserver.Config{Port: apiPort, AdvertiseAddress: netip.MustParseAddr(serverIP), EtcdEndpoints: store.Endpoints(), Keys: keys,
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/15")}, NodePorts: allocation.Ports{Min: 30000, Max: 32767},
		APIServiceIP: netip.MustParseAddr("10.96.0.1"), DNSServiceIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, ClusterDomain: domain, AgentPort: 10250, Logger: logger})
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := func() {
		cancel()
		<-done
		store.Close()
	}
	select {
	case <-s.Ready():
	case err := <-done:
		cancel()
		store.Close()
		return nil, nil, err
	}
	if err := keys.WriteKubeconfig(kubeconfig(dir), fmt.Sprintf("https://127.0.0.1:%d", apiPort), "admin", keys.Admin); err != nil {
		stop()
		return nil, nil, err
	}
	cfg := rest.CopyConfig(s.Loopback())
	cfg.QPS = -1
	client, err := kubernetes.NewForConfig(cfg)
	return client, stop, err
}

func kubeconfig(dir string) string { return filepath.Join(dir, "kubeconfig") }

func link(netns string) error {
	script := fmt.Sprintf(`
ip netns add %[1]s
ip link add skepbenchdns type veth peer name eth0 netns %[1]s
ip addr add %[2]s/30 dev skepbenchdns
ip link set skepbenchdns up
ip -n %[1]s addr add %[3]s/30 dev eth0
ip -n %[1]s link set eth0 up
ip -n %[1]s link set lo up`, netns, serverIP, loadIP)
	if out, err := exec.Command("bash", "-ec", script).CombinedOutput(); err != nil {
		return fmt.Errorf("make the load's network: %w: %s", err, out)
	}
	return nil
}

func unlink(netns string) error {
	out, err := exec.Command("bash", "-c", "ip link del skepbenchdns; ip netns del "+netns).CombinedOutput()
	if err != nil {
		return fmt.Errorf("remove the load's network: %w: %s", err, out)
	}
	return nil
}
