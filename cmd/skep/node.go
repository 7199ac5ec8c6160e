package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/skep-io/skep/control/apiserver"
	"github.com/skep-io/skep/control/apiserver/allocation"
	"github.com/skep-io/skep/control/controller"
	"github.com/skep-io/skep/control/etcd"
	"github.com/skep-io/skep/control/join"
	"github.com/skep-io/skep/control/pki"
)

// runNode runs the parts of the role in this process until ctx ends or a part fails. Pods and their network go on without it.
func runNode(ctx context.Context, cfg nodeConfig, clock *timeline) error {
	if err := prepare(cfg); err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	// The libraries' own log: what they merely inform of is of no use to an operator.
	klog.SetSlogLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	if cfg.nodes > 1 {
		if err := cfg.segment().Ensure(); err != nil {
			return err
		}
	}
	n := &node{cfg: cfg, clock: clock, logger: logger, group: group}
	defer n.close()
	if err := n.start(ctx); err != nil {
		stop()
		_ = group.Wait() // what runs ends because of err
		return err
	}
	return group.Wait()
}

// prepare checks what a node needs of the machine, before anything is made.
func prepare(cfg nodeConfig) error {
	if os.Geteuid() != 0 {
		return errors.New("a node needs root: run this with sudo")
	}
	if err := checkForeign(cfg); err != nil {
		return err
	}
	for _, dir := range []string{cfg.paths.data, cfg.paths.run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create %s: %w; choose another with --data-dir or --run-dir", dir, err)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
		f, err := os.CreateTemp(dir, ".write-*")
		if err != nil {
			return fmt.Errorf("%s cannot be written: %w; choose another with --data-dir or --run-dir", dir, err)
		}
		if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// node holds the parts of a running node.
type node struct {
	cfg    nodeConfig
	clock  *timeline
	logger *slog.Logger
	group  *errgroup.Group

	keys *pki.Bundle // nil without a server
	// identity and ca are the node's, set before the agent starts; apiURL is where it finds the API server.
	identity *pki.Node
	ca       []byte
	apiURL   string
	// nodesAPI is the server's own connection, with all rights.
	nodesAPI *rest.Config
	store    *etcd.Server
	closers  []func()
	mu       sync.Mutex
}

// onClose has f called when the node ends, the last first.
func (n *node) onClose(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closers = append(n.closers, f)
}

func (n *node) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := len(n.closers) - 1; i >= 0; i-- {
		n.closers[i]()
	}
}

// start starts server and agent side by side and returns when both run, or when one failed.
func (n *node) start(ctx context.Context) error {
	defer n.cfg.freeMemory()
	if n.cfg.foreign != nil {
		return n.startForeign(ctx)
	}
	var parts errgroup.Group
	ready, failed := make(chan struct{}), make(chan struct{})
	parts.Go(func() error {
		if err := n.startCluster(ctx); err != nil {
			close(failed)
			return err
		}
		close(ready)
		return nil
	})
	if n.cfg.agent {
		parts.Go(func() error {
			containers, err := n.startRuntime(ctx)
			if err != nil {
				return err
			}
			select {
			case <-ready:
				return n.startAgent(ctx, containers)
			case <-failed:
				return nil // the other part tells why
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}
	if err := parts.Wait(); err != nil {
		return err
	}
	if n.cfg.nodes > 1 {
		if err := n.startFellows(ctx, n.nodesAPI); err != nil {
			return err
		}
	}
	n.group.Go(func() error { n.keepKeys(ctx); return nil })
	return nil
}

// agentGCPercent is how much garbage an agent collects, in percent of what is live: a list of all Services leaves much behind once, and
// little is allocated afterwards.
const agentGCPercent = 40

// freeMemory gives back what the first lists left behind, where the process is an agent alone, beside others' work.
func (c nodeConfig) freeMemory() {
	if !c.server {
		debug.SetGCPercent(agentGCPercent)
		debug.FreeOSMemory()
	}
}

// startCluster makes the cluster be there: by starting its server, or by joining it.
func (n *node) startCluster(ctx context.Context) error {
	if !n.cfg.server {
		return n.join(ctx)
	}
	if err := n.startStore(ctx); err != nil {
		return err
	}
	return n.startServer(ctx)
}

// member is this node as it joins the cluster of another machine.
func (n *node) member() join.Member {
	return join.Member{Dir: n.cfg.paths.keys(), Server: n.cfg.join.server, Name: n.cfg.name, Addresses: n.cfg.ips,
		Token: n.cfg.join.token, CAHash: n.cfg.join.caHash}
}

func (n *node) join(ctx context.Context) error {
	state, err := n.member().Ensure(ctx)
	if err != nil {
		return err
	}
	n.identity, n.ca, n.apiURL = &state.Identity, state.CA, state.Server
	n.cfg.podCIDRs, n.cfg.serviceCIDRs = state.Cluster.PodCIDRs, state.Cluster.ServiceCIDRs
	if err := n.cfg.keepFamilies(); err != nil {
		return err
	}
	n.clock.reach(joined, state.Server)
	return nil
}

// keyCheck is how often certificates are looked at; they are renewed months before their end.
const keyCheck = 6 * time.Hour

// keepKeys renews certificates until ctx ends. Whoever uses them reads their files anew.
func (n *node) keepKeys(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(keyCheck):
		}
		var err error
		if n.cfg.server {
			_, _, err = n.ensureKeys()
		} else if n.identity.Client.Renew() || n.identity.Server.Renew() {
			err = n.member().Renew(ctx)
		}
		if err != nil {
			n.logger.Warn("certificates are not renewed", "error", err)
		}
	}
}

// startStore makes the keys and starts etcd beside it.
func (n *node) startStore(ctx context.Context) error {
	parts := errgroup.Group{}
	parts.Go(func() (err error) {
		n.store, err = etcd.Start(ctx, etcd.Config{Dir: n.cfg.paths.etcd(), Logger: n.logger})
		if err != nil {
			return err
		}
		n.onClose(n.store.Close)
		n.clock.reach(storeReady, "")
		return nil
	})
	parts.Go(func() (err error) {
		n.keys, n.identity, err = n.ensureKeys()
		if err == nil {
			n.ca, n.apiURL = n.keys.CA.Cert, n.serverURL()
		}
		return err
	})
	return parts.Wait()
}

// ensureKeys makes what is missing of the keys of server and node, or near its end.
func (n *node) ensureKeys() (*pki.Bundle, *pki.Node, error) {
	names := pki.Names{
		DNS: []string{"localhost", n.cfg.name, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + defaultDomain},
		IPs: slices.Concat([]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}, n.cfg.ips, n.cfg.serviceIPs(apiServiceIP)),
	}
	for _, name := range n.cfg.serverNames {
		if ip, err := netip.ParseAddr(name); err == nil {
			names.IPs = append(names.IPs, ip)
		} else if name != "" {
			names.DNS = append(names.DNS, name)
		}
	}
	keys, err := pki.Ensure(n.cfg.paths.keys(), names)
	if err != nil {
		return nil, nil, err
	}
	if err := keys.WriteKubeconfig(n.cfg.paths.kubeconfig(), n.serverURL(), "admin", keys.Admin); err != nil {
		return nil, nil, err
	}
	identity, err := keys.EnsureNode(n.cfg.name, n.cfg.ips)
	return keys, identity, err
}

func (n *node) serverURL() string { return fmt.Sprintf("https://127.0.0.1:%d", n.cfg.apiPort) }

// startServer serves the API and then runs the controllers and the scheduler.
func (n *node) startServer(ctx context.Context) error {
	s, err := apiserver.New(ctx, apiserver.Config{
		Port: n.cfg.apiPort, AdvertiseAddress: n.cfg.ips[0], EtcdEndpoints: n.store.Endpoints(), Keys: n.keys,
		ServiceCIDRs: n.cfg.serviceCIDRs, PodCIDRs: n.cfg.podCIDRs, NodePorts: allocation.Ports{Min: 30000, Max: 32767},
		APIServiceIP: n.cfg.serviceIPs(apiServiceIP)[0], DNSServiceIPs: n.cfg.serviceIPs(dnsServiceIP), ClusterDomain: defaultDomain,
		AgentPort: n.cfg.agentPort, Logger: n.logger.With("component", "apiserver"),
	})
	if err != nil {
		return err
	}
	n.group.Go(func() error { return s.Run(ctx) })
	select {
	case <-s.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	n.clock.reach(apiReady, n.serverURL())
	n.nodesAPI = s.Loopback()
	return n.startControllers(ctx, s.Loopback())
}

// startControllers runs all loops and the scheduler on the API server's own connection.
func (n *node) startControllers(ctx context.Context, cfg *rest.Config) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	meta, err := metadata.NewForConfig(cfg)
	if err != nil {
		return err
	}
	n.group.Go(func() error {
		return controller.Run(ctx, controller.Config{
			Client: client, Metadata: meta, Informers: controller.NewInformers(client),
			PodCIDRs: n.cfg.podCIDRs, RootCA: n.keys.CA.Cert, Logger: n.logger.With("component", "controller"),
		})
	})
	return nil
}
