package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/skep-io/skep/control/agent"
	"github.com/skep-io/skep/control/agent/runtime"
	"github.com/skep-io/skep/control/controller"
	"github.com/skep-io/skep/control/steady"
	"github.com/skep-io/skep/datapath"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/ipam"
	"github.com/skep-io/skep/datapath/podnet"
	"github.com/skep-io/skep/dns/cluster"
	"github.com/skep-io/skep/dns/config"
	"github.com/skep-io/skep/dns/forward"
	"github.com/skep-io/skep/dns/kernel"
	"github.com/skep-io/skep/dns/server"
)

// daemon is the containerd of a node.
func (c nodeConfig) daemon() runtime.Daemon {
	return runtime.Daemon{Address: c.containerd, DataDir: c.paths.data, RunDir: c.paths.run}
}

// runtimeConfig is how a node uses the containerd at address.
func (n *node) runtimeConfig(address string) runtime.Config {
	return runtime.Config{Address: address, Namespace: containerdNamespace, StateDir: filepath.Join(n.cfg.paths.run, "containers"),
		PodsCgroup: n.cfg.podsCgroup(), Logger: n.logger.With("component", "runtime")}
}

// startRuntime starts or finds containerd and connects to it. It needs no API server.
func (n *node) startRuntime(ctx context.Context) (*runtime.Runtime, error) {
	address, err := runtime.EnsureContainerd(ctx, n.cfg.daemon())
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(containerdRecord(n.cfg.paths), []byte(address), 0o600); err != nil {
		return nil, err
	}
	r, err := runtime.New(ctx, n.runtimeConfig(address))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	n.onClose(func() { _ = r.Close() }) // containers go on whatever it says
	n.clock.reach(containerdReady, address)
	return r, nil
}

// nodeClient is the configuration of a client with this node's identity.
func (n *node) nodeClient() *rest.Config {
	return &rest.Config{
		Host: n.apiURL,
		// Files, not data: they are read again when they are renewed.
		TLSClientConfig: rest.TLSClientConfig{CAData: n.ca, CertFile: n.identity.Client.CertFile, KeyFile: n.identity.Client.KeyFile},
		ContentConfig:   rest.ContentConfig{ContentType: kruntime.ContentTypeProtobuf},
		QPS:             -1,
		WarningHandler:  rest.NoWarnings{},
	}
}

// startAgent starts the agent, the network and DNS on a server that is ready.
func (n *node) startAgent(ctx context.Context, containers *runtime.Runtime) error {
	client, err := kubernetes.NewForConfig(n.nodeClient())
	if err != nil {
		return err
	}
	net := &network{ready: make(chan struct{})}
	if err := n.runAgent(ctx, containers, net); err != nil {
		return err
	}
	return n.startNetwork(ctx, client, net)
}

// runAgent registers the node and runs its pods, as far as they go without a network.
func (n *node) runAgent(ctx context.Context, containers *runtime.Runtime, net *network) error {
	if _, err := n.identity.Server.Current(); err != nil {
		return fmt.Errorf("certificate of the node: %w", err)
	}
	current := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return n.identity.Server.Current() }
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(n.ca)
	a, err := agent.New(ctx, agent.Config{
		NodeName: n.cfg.name, NodeIPs: n.cfg.ips, DataDir: n.cfg.paths.data, RunDir: n.cfg.paths.run, RESTConfig: n.nodeClient(),
		Listen: ports(n.cfg.ips, uint16(n.cfg.agentPort)), TLS: &tls.Config{GetCertificate: current, ClientCAs: roots},
		Runtime: containers, Network: net, NetworkReady: net.ready,
		ClusterDNS: n.cfg.serviceIPs(dnsServiceIP)[0], ClusterDomain: defaultDomain, Logger: n.logger.With("component", "agent"),
	})
	if err != nil {
		return err
	}
	n.group.Go(func() error { return a.Run(ctx) })
	return nil
}

// startNetwork waits for the node's range of pod addresses, then starts the data path and DNS, and reports the node ready when
// the API server says so.
func (n *node) startNetwork(ctx context.Context, client kubernetes.Interface, net *network) error {
	registered, err := awaitNode(ctx, client, n.cfg.name, func(node *corev1.Node) bool { return node.Spec.PodCIDR != "" })
	if err != nil {
		return fmt.Errorf("wait for pod addresses of node %s: %w", n.cfg.name, err)
	}
	podCIDRs, err := parsePrefixes(registered.Spec.PodCIDRs)
	if err != nil {
		return fmt.Errorf("node %s: spec.podCIDRs: %w", n.cfg.name, err)
	}
	d, err := n.startDatapath(ctx, client, followers(client), podCIDRs)
	if err != nil {
		return err
	}
	net.start(d)
	if _, err := awaitNode(ctx, client, n.cfg.name, ready); err != nil {
		return fmt.Errorf("wait for node %s: %w", n.cfg.name, err)
	}
	n.clock.reach(nodeReady, n.cfg.name+" "+commas(n.cfg.ips))
	return nil
}

// followers are the informers of a node's network.
func followers(client kubernetes.Interface) informers.SharedInformerFactory {
	factory := controller.NewInformers(client)
	steady.Register(factory, client)
	return factory
}

// startDatapath starts the data path and DNS for this node's ranges of pod addresses, and the informers, which both use.
func (n *node) startDatapath(ctx context.Context, client kubernetes.Interface, factory informers.SharedInformerFactory, podCIDRs []netip.Prefix) (*datapath.Datapath, error) {
	cgroup, err := n.cfg.cgroupRoot()
	if err != nil {
		return nil, err
	}
	objects, err := cluster.NewObjects(factory)
	if err != nil {
		return nil, err
	}
	var routers []netip.Addr
	for _, p := range podCIDRs {
		routers = append(routers, ipam.Router(p))
	}
	d, err := datapath.Start(ctx, datapath.Config{
		NodeName: n.cfg.name, NodeIPs: n.cfg.ips, PodCIDRs: podCIDRs, ClusterCIDRs: n.cfg.podCIDRs, ServiceCIDRs: n.cfg.serviceCIDRs,
		Tunnel: desired.TunnelMode(n.cfg.tunnel), Guests: n.cfg.guests(),
		DNS: n.cfg.dnsServers(ports(routers, 53)), BPFDir: n.cfg.paths.bpf, CgroupRoot: cgroup, RunDir: n.cfg.paths.run,
		XDP:       desired.XDPMode(n.cfg.xdp),
		Informers: factory, Events: n.events(ctx, client), Client: client, Metrics: prometheus.DefaultRegisterer, Logger: n.logger.With("component", "datapath"),
	})
	if err != nil {
		return nil, err
	}
	n.onClose(d.Close)
	n.clock.reach(networkReady, commas(podCIDRs))
	return d, n.startDNS(ctx, client, factory, objects, d.Maps(), ports(routers, 53))
}

// events records what the network has to say about objects.
func (n *node) events(ctx context.Context, client kubernetes.Interface) record.EventRecorder {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	n.onClose(broadcaster.Shutdown)
	return broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "skep-network", Host: n.cfg.name})
}

// ports are the addresses with a port.
func ports(addresses []netip.Addr, port uint16) []netip.AddrPort {
	var list []netip.AddrPort
	for _, a := range addresses {
		list = append(list, netip.AddrPortFrom(a, port))
	}
	return list
}

func (n *node) startDNS(ctx context.Context, client kubernetes.Interface, factory informers.SharedInformerFactory, objects *cluster.Objects, maps *bpfmap.Maps, listen []netip.AddrPort) error {
	logger := n.logger.With("component", "dns")
	var own []netip.Addr
	for _, l := range listen {
		own = append(own, l.Addr())
	}
	upstreams, err := forward.FromResolvConf("/etc/resolv.conf", own...)
	if err != nil {
		logger.Warn("names outside the cluster cannot be resolved", "error", err)
	}
	pods, err := cluster.NewPodIndex(factory)
	if err != nil {
		return err
	}
	zone, err := cluster.NewZone(cluster.Config{Domain: n.cfg.domain, Objects: objects, Pods: pods,
		Reverse: slices.Concat(n.cfg.serviceCIDRs, n.cfg.podCIDRs)})
	if err != nil {
		return err
	}
	answers, err := kernel.New(maps, zone, logger)
	if err != nil {
		return err
	}
	s := server.New(server.Config{Listen: listen, Zone: zone, Clients: pods, Upstreams: upstreams, Kernel: answers, Logger: logger})
	watcher := config.NewWatcher(client, n.cfg.name, func(c *config.Config) { answers.Apply(c, func() { s.Apply(c) }) }, logger)
	for _, c := range append(s.Collectors(), watcher.Collectors()...) {
		if err := prometheus.Register(c); err != nil {
			return err
		}
	}
	if err := s.Listen(ctx); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	n.group.Go(func() error { return s.Run(ctx) })
	n.group.Go(func() error { return watcher.Run(ctx) })
	n.group.Go(func() error { return answers.Run(ctx) })
	n.group.Go(func() error {
		if err := inspectDNS(ctx, n.cfg.paths, s); err != nil {
			logger.Warn("skep dns cannot look inside", "error", err) // answers do not depend on it
		}
		return nil
	})
	n.clock.reach(dnsReady, commas(listen))
	return nil
}

// awaitNode watches the Node until good.
func awaitNode(ctx context.Context, client kubernetes.Interface, name string, good func(*corev1.Node) bool) (*corev1.Node, error) {
	nodes := client.CoreV1().Nodes()
	own := fields.OneTermEqualSelector("metadata.name", name).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (kruntime.Object, error) {
			o.FieldSelector = own
			return nodes.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = own
			return nodes.Watch(ctx, o)
		},
	}
	event, err := watchtools.UntilWithSync(ctx, lw, &corev1.Node{}, nil, func(e watch.Event) (bool, error) {
		node, ok := e.Object.(*corev1.Node)
		return ok && e.Type != watch.Deleted && good(node), nil
	})
	if err != nil {
		return nil, err
	}
	return event.Object.(*corev1.Node), nil
}

func ready(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// network is the data path as the agent sees it: there from the first, but working only when the node has its addresses.
type network struct {
	ready chan struct{}
	path  *datapath.Datapath // set before ready is closed
}

func (w *network) start(d *datapath.Datapath) {
	w.path = d
	close(w.ready)
}

// Attach implements sandbox.Network.
func (w *network) Attach(ctx context.Context, p podnet.Pod) (podnet.Attachment, error) {
	select {
	case <-w.ready:
		return w.path.Attach(ctx, p)
	case <-ctx.Done():
		return podnet.Attachment{}, ctx.Err()
	}
}

// Detach implements sandbox.Network.
func (w *network) Detach(ctx context.Context, uid string) error {
	select {
	case <-w.ready:
		return w.path.Detach(ctx, uid)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Retain implements sandbox.Network.
func (w *network) Retain(ctx context.Context, uids []string) error {
	select {
	case <-w.ready:
		return w.path.Retain(ctx, uids)
	case <-ctx.Done():
		return ctx.Err()
	}
}
