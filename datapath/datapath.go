// Package datapath is the network of one node: it gives pods their addresses and devices, and keeps the kernel's tables equal to
// what the Kubernetes API says. Packets do not need it: programs and maps are pinned, so that the network goes on when this
// process is gone, and the next one takes over what it finds.
package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/ipam"
	"github.com/skep-io/skep/datapath/load"
	"github.com/skep-io/skep/datapath/observe"
	"github.com/skep-io/skep/datapath/podnet"
	"github.com/skep-io/skep/datapath/reconcile"
)

// Config is what the network of a node needs to know. Every field is required unless it says otherwise.
type Config struct {
	NodeName string
	// NodeIPs are the addresses by which other nodes reach this one. Here and below there is one or two, of different families,
	// the primary family's first.
	NodeIPs []netip.Addr
	// PodCIDRs are the pod addresses of this node, ClusterCIDRs those of all nodes; ServiceCIDRs are the cluster IPs.
	PodCIDRs, ClusterCIDRs, ServiceCIDRs []netip.Prefix
	// Tunnel says which nodes are reached through the tunnel; empty means those that share no link with this one.
	Tunnel desired.TunnelMode
	// Guests are the addresses of nodes that live on this machine and reach the outside through this one; not valid: there are none.
	Guests netip.Prefix
	// NodePortMin and NodePortMax bound the node ports, both included. Zero means 30000 to 32767.
	NodePortMin, NodePortMax uint16
	// DNS leads the cluster IPs of the DNS Service to where this node's server listens, which is their only backend.
	DNS map[netip.Addr]netip.AddrPort

	// XDP says which devices' packets are seen by XDP before the kernel's stack; empty means those that gain by it.
	XDP desired.XDPMode

	// BPFDir is where programs and maps are pinned, in a BPF file system; CgroupRoot is the root of the cgroup2 hierarchy, whose
	// processes get Service translation. RunDir holds the pinned network namespaces and a note of what to restore at Cleanup.
	BPFDir, CgroupRoot, RunDir string

	// Informers deliver Services, EndpointSlices, Nodes, Namespaces, NetworkPolicies and the pods of all nodes. Start starts what
	// it asks of them.
	Informers informers.SharedInformerFactory
	// Events is told of policies and Services that the kernel has no room for, and of what they ask that is not known; nil means
	// that only the log is.
	Events record.EventRecorder
	// Client writes the condition of Services that the kernel has no room for; nil means none.
	Client kubernetes.Interface
	// Metrics gets the collectors of the data path; nil means none.
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// validate names the field that cannot be worked with.
func (c Config) validate() error {
	for name, prefixes := range map[string][]netip.Prefix{
		"PodCIDRs": c.PodCIDRs, "ClusterCIDRs": c.ClusterCIDRs, "ServiceCIDRs": c.ServiceCIDRs,
	} {
		v4, v6 := split(prefixes, netip.Prefix.Addr)
		if n := len(prefixes); n == 0 || n > 2 || n == 2 && (!v4.IsValid() || !v6.IsValid()) {
			return fmt.Errorf("datapath: %s %v: want a prefix of one or of each family", name, prefixes)
		}
	}
	pods4, pods6 := split(c.PodCIDRs, netip.Prefix.Addr)
	all4, all6 := split(c.ClusterCIDRs, netip.Prefix.Addr)
	if pods4.IsValid() && !all4.Contains(pods4.Addr()) || pods6.IsValid() && !all6.Contains(pods6.Addr()) {
		return fmt.Errorf("datapath: PodCIDRs %v: outside ClusterCIDRs %v", c.PodCIDRs, c.ClusterCIDRs)
	}
	if len(c.NodeIPs) == 0 || slices.ContainsFunc(c.NodeIPs, func(a netip.Addr) bool { return !a.IsValid() }) {
		return fmt.Errorf("datapath: NodeIPs %v: want addresses", c.NodeIPs)
	}
	for name, value := range map[string]string{
		"NodeName": c.NodeName, "BPFDir": c.BPFDir, "CgroupRoot": c.CgroupRoot, "RunDir": c.RunDir,
	} {
		if value == "" {
			return fmt.Errorf("datapath: %s: must not be empty", name)
		}
	}
	return nil
}

// Datapath is the running network of one node. It is safe for concurrent use.
type Datapath struct {
	cfg     Config
	objects *load.Objects
	maps    *bpfmap.Maps
	flows   *reconcile.Flows
	sockets *reconcile.Sockets
	nodes   *nodes
	pods    *podnet.Manager
	// policies are what isolates pods.
	policies *policies
	synced   chan struct{}
	stop     context.CancelFunc
	done     sync.WaitGroup
}

// Start takes over or sets up the network of this node and returns when pods can be attached and Services that the kernel has
// from before work. The API's Services follow as soon as the informers have synced: see Synced. Everything stops with ctx; the
// kernel's state stays. Close waits for that.
func Start(ctx context.Context, cfg Config) (_ *Datapath, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	d := &Datapath{cfg: cfg, synced: make(chan struct{}), stop: stop}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
		return nil, err
	}
	if err := d.openMaps(); err != nil {
		return nil, err
	}
	services, err := newServices(cfg, d.maps, d.flows, d.sockets, d.nodes, d.isSynced)
	if err != nil {
		return nil, err
	}
	d.policies.programming = services.programming
	if cfg.Metrics != nil {
		err := observe.Register(cfg.Metrics, observe.Sources{
			Maps: d.maps, Flows: d.flows.Live, Traffic: d.flows.Traffic, Name: services.table.Name,
			Resets: d.sockets.Resets, Policies: d.policies.counts, Programming: services.programming,
		})
		if err != nil {
			return nil, err
		}
	}
	d.done.Go(func() { services.run(ctx, d.synced) })
	d.done.Go(func() { services.warnings.conditions.run(ctx) })
	d.done.Go(func() { d.policies.run(ctx) })
	if d.objects.Upgrading() {
		// The programs at work serve by the maps of the version before, until these are right.
		select {
		case <-d.synced:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	host, err := d.setupHost(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.objects.AttachSock(cfg.CgroupRoot); err != nil {
		return nil, err
	}
	d.done.Go(func() { d.watchHost(ctx, host) })
	d.done.Go(func() { d.nodes.followPaths(ctx) })
	d.done.Go(func() { d.flows.Run(ctx) })
	d.done.Go(func() { d.sockets.Run(ctx) })
	d.done.Go(func() { d.reconnect(ctx) })
	return d, nil
}

// visit is there before the pods are: sockets are reset once both are.
func (d *Datapath) visit(wanted func(cookie uint64) bool, fn func() error) error {
	return d.pods.Visit(wanted, fn)
}

// split returns the first of IPv4 and the first of IPv6, zero where there is none.
func split[T any](list []T, address func(T) netip.Addr) (v4, v6 T) {
	for _, e := range slices.Backward(list) {
		if address(e).Is4() {
			v4 = e
		} else {
			v6 = e
		}
	}
	return v4, v6
}

// routers are the node's own addresses in its pod ranges.
func routers(cfg Config) []netip.Addr {
	var list []netip.Addr
	for _, p := range cfg.PodCIDRs {
		list = append(list, ipam.Router(p))
	}
	return list
}

// reconnect gives the pods that are there the programs at hand, after which those of the process before have no work left.
func (d *Datapath) reconnect(ctx context.Context) {
	err := d.pods.Reconnect(ctx)
	if err == nil {
		err = d.objects.Upgraded()
	}
	if err != nil {
		d.cfg.Logger.Warn("pods keep the programs of the process before", "error", err)
	}
}

func (d *Datapath) openMaps() (err error) {
	cfg := load.Config{
		Dir:         d.cfg.BPFDir,
		NodePortMin: d.cfg.NodePortMin,
		NodePortMax: d.cfg.NodePortMax,
		Logger:      d.cfg.Logger,
	}
	cfg.ClusterNetwork, cfg.ClusterNetwork6 = split(d.cfg.ClusterCIDRs, netip.Prefix.Addr)
	cfg.PodNetwork, cfg.PodNetwork6 = split(d.cfg.PodCIDRs, netip.Prefix.Addr)
	cfg.ServiceNetwork, cfg.ServiceNetwork6 = split(d.cfg.ServiceCIDRs, netip.Prefix.Addr)
	cfg.GuestNetwork = d.cfg.Guests
	cfg.Router, cfg.Router6 = split(routers(d.cfg), func(a netip.Addr) netip.Addr { return a })
	d.objects, err = load.Open(cfg)
	if err != nil {
		return err
	}
	if d.maps, err = bpfmap.Open(mapsDir(d.cfg)); err != nil {
		return err
	}
	d.flows = reconcile.NewFlows(d.maps, d.cfg.Logger)
	d.sockets = reconcile.NewSockets(d.maps, d.visit, d.cfg.Logger)
	if d.policies, err = newPolicies(d.cfg, d.maps); err != nil {
		return err
	}
	d.nodes, err = newNodes(d.cfg, d.maps, programs{d.objects})
	return err
}

// setupHost sets up the node's own end and then the pods'.
func (d *Datapath) setupHost(ctx context.Context) (*podnet.Host, error) {
	host, err := podnet.NewHost(d.cfg.PodCIDRs, d.cfg.RunDir, uplinks{programs{d.objects}, d.nodes, front{d.objects, d.cfg.XDP, d.cfg.Logger}}, d.cfg.Logger)
	if err != nil {
		return nil, err
	}
	if err := host.Setup(); err != nil {
		return nil, err
	}
	if err := host.Refresh(); err != nil {
		return nil, err
	}
	d.pods, err = podnet.New(podnet.Config{
		Dir:          namespacesDir(d.cfg),
		PodCIDRs:     d.cfg.PodCIDRs,
		ClusterCIDRs: d.cfg.ClusterCIDRs,
		Programs:     programs{d.objects},
		Endpoints:    endpoints{d.maps, d.flows, d.policies},
		Logger:       d.cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	return host, d.nodes.setResize(func(mtu podnet.MTU) error { return d.pods.SetMTU(ctx, mtu) })
}

// watchHost follows the uplinks until ctx ends. The kernel drops events when they come too fast; then all is looked at anew.
func (d *Datapath) watchHost(ctx context.Context, host *podnet.Host) {
	for {
		err := host.Watch(ctx)
		if ctx.Err() != nil {
			return
		}
		d.cfg.Logger.Warn("uplinks are looked at anew", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchPause):
		}
	}
}

// watchPause keeps a fault that stays from using the processor up.
const watchPause = time.Second

// Attach gives a pod its network, or finds the one it has: see [podnet.Manager.Attach]. The policies that isolate it are in force
// before its first packet.
func (d *Datapath) Attach(ctx context.Context, pod podnet.Pod) (podnet.Attachment, error) {
	if err := d.policies.expect(ctx, pod.UID, pod.Identity); err != nil {
		return podnet.Attachment{}, fmt.Errorf("network of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return d.pods.Attach(ctx, pod)
}

// Check says what is wrong with a pod's network: see [podnet.Manager.Check].
func (d *Datapath) Check(ctx context.Context, pod podnet.Pod) (podnet.Attachment, error) {
	return d.pods.Check(ctx, pod)
}

// Detach removes a network, by the pod's UID or the name of its sandbox; one that is not there is no error. The pod's processes
// must be dead.
func (d *Datapath) Detach(ctx context.Context, id string) error { return d.pods.Detach(ctx, id) }

// Retain removes every network that is not listed.
func (d *Datapath) Retain(ctx context.Context, ids []string) error { return d.pods.Retain(ctx, ids) }

// Synced is closed when the kernel has every Service that the API had at start, and nothing else.
func (d *Datapath) Synced() <-chan struct{} { return d.synced }

func (d *Datapath) isSynced() bool {
	select {
	case <-d.synced:
		return true
	default:
		return false
	}
}

// Maps gives read access to the kernel's tables. They belong to d.
func (d *Datapath) Maps() *bpfmap.Maps { return d.maps }

// Close stops the work, waits for it and releases what the process holds. The network goes on.
func (d *Datapath) Close() {
	d.stop()
	d.done.Wait()
	if d.pods != nil {
		d.pods.Close()
	}
	if d.maps != nil {
		d.maps.Close()
	}
	if d.objects != nil {
		d.objects.Close()
	}
}

// Cleanup removes everything that the network of a node left on the machine: programs, maps, pods' namespaces and devices,
// routes, addresses, settings. Only BPFDir and RunDir of cfg are used. It is idempotent; the node's process must have ended.
func Cleanup(cfg Config) error {
	// Pods first: without programs their packets would take the host's own ways.
	return errors.Join(podnet.Cleanup(namespacesDir(cfg)), clearPeers(), load.Cleanup(cfg.BPFDir))
}

// MapsDir is where the maps of a node with that BPFDir are pinned, for [bpfmap.Open].
func MapsDir(bpfDir string) string { return filepath.Join(bpfDir, "maps") }

func mapsDir(cfg Config) string { return MapsDir(cfg.BPFDir) }

// namespacesDir is where the pods' network namespaces are pinned.
func namespacesDir(cfg Config) string { return filepath.Join(cfg.RunDir, "netns") }

// programs attaches the loaded programs to devices, by links where the kernel has them and by filters where not.
type programs struct{ objects *load.Objects }

// AttachPod uses filters on every kernel: a link takes the kernel 10 to 20 ms to make, and as long to remove, with all other
// changes of devices waiting. Nobody else has business on a pod's host device, so a link would protect it from nobody.
func (p programs) AttachPod(_ string, ifindex int) error { return p.filter(ifindex, podPrograms) }

// DetachPod leaves the filters to go with the device.
func (p programs) DetachPod(string, int) error { return nil }

func (p programs) AttachNetdev(_ string, ifindex int) error {
	err := p.objects.AttachNetdev(ifindex)
	if errors.Is(err, load.ErrNoTCX) {
		return p.filter(ifindex, netdevPrograms)
	}
	return err
}

// AttachOverlay attaches the programs of the tunnel to its device, and behind them those of any device that leads outside.
func (p programs) AttachOverlay(ifindex int) error {
	err := p.objects.AttachOverlay(ifindex)
	if errors.Is(err, load.ErrNoTCX) {
		return p.filter(ifindex, overlayFilters, netdevPrograms)
	}
	return err
}

func (p programs) DetachNetdev(_ string, ifindex int) error {
	return errors.Join(p.objects.DetachNetdev(ifindex), podnet.DetachFilters(ifindex))
}

func (p programs) NetdevDevices() ([]int, error) { return p.objects.NetdevDevices() }

// filter attaches programs as filters, in their order.
func (p programs) filter(ifindex int, chain ...filterPrograms) error {
	var filters []podnet.Filters
	for _, names := range chain {
		ingress, egress := p.objects.Program(names.ingress), p.objects.Program(names.egress)
		if ingress == nil || egress == nil {
			return fmt.Errorf("programs %s and %s: not loaded", names.ingress, names.egress)
		}
		filters = append(filters, podnet.Filters{Ingress: ingress.FD(), Egress: egress.FD()})
	}
	return podnet.AttachFilters(ifindex, filters...)
}

// filterPrograms names the programs of a device's two directions.
type filterPrograms struct{ ingress, egress string }
