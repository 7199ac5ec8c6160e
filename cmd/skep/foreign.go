package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skep-io/skep/datapath/cni"
)

// foreignConfig is what an agent is told that is the network, and no more, of somebody else's cluster.
type foreignConfig struct {
	// kubeconfig is how the API is reached; empty: as a pod does. server is its URL where it is not what that says.
	kubeconfig, server string
	// binDir and confDir are where the container runtime looks for CNI plugins and networks.
	binDir, confDir string
	// clusterDNS is the flag; dns is what came of it: the addresses which pods ask, each led to this node's own server.
	clusterDNS string
	dns        []netip.Addr
	// metrics and health are where to answer over HTTP; empty: nowhere.
	metrics, health string
	// serviceCIDRs and podCIDRs are as given; empty: the cluster tells.
	serviceCIDRs, podCIDRs []netip.Prefix
}

// foreignOptions are flags before they are parsed.
type foreignOptions struct {
	networkOnly bool
	foreignConfig
}

// noDNS as a DNS address says that names are somebody else's business.
const noDNS = "none"

func (o *startOptions) foreignFlags(cmd *cobra.Command) {
	f, c := cmd.Flags(), &o.foreign
	f.BoolVar(&c.networkOnly, "network-only", false, "be the network, and no more, of a node whose kubelet and control plane are somebody else's")
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "network only: kubeconfig of an account with the rights of deploy/network-only.yaml; default: that of the pod that this runs in")
	f.StringVar(&c.binDir, "cni-bin-dir", cni.DefaultBinDir, "network only: where the container runtime looks for CNI plugins")
	f.StringVar(&c.confDir, "cni-conf-dir", cni.DefaultConfDir, "network only: where the container runtime looks for CNI networks")
	f.StringSliceVar(&o.serviceCIDRs, "service-cidr", nil, "network only: range of cluster IPs, at most one of each family; default: what the cluster tells")
	f.StringSliceVar(&o.podCIDRs, "pod-cidr", nil, "network only: range of pod addresses of all nodes, at most one of each family; default: what the cluster tells")
	f.StringVar(&c.clusterDNS, "cluster-dns", "", `network only: DNS addresses of pods, answered on this node; default: those of the Service kube-system/kube-dns; "`+noDNS+`": they are somebody else's`)
	f.StringVar(&o.node.domain, "cluster-domain", o.node.domain, "network only: the cluster's DNS domain")
	f.StringVar(&c.metrics, "metrics-address", "127.0.0.1:10249", "network only: where to serve /metrics; empty: nowhere")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range []string{"kubeconfig", "cni-bin-dir", "cni-conf-dir", "service-cidr", "pod-cidr", "cluster-dns", "cluster-domain", "metrics-address", "health-address"} {
			if cmd.Flags().Changed(name) && !c.networkOnly {
				return fmt.Errorf("--%s is for --network-only", name)
			}
		}
		return nil
	}
	f.StringVar(&c.health, "health-address", ":10256", "network only: where to serve /healthz and /livez, for load balancers; empty: nowhere")
}

// parseForeign reads the flags of a network alone.
func (o *startOptions) parseForeign() error {
	c, f := &o.node, o.foreign.foreignConfig
	f.server = c.join.server
	var err error
	if f.serviceCIDRs, err = parsePrefixes(o.serviceCIDRs); err != nil {
		return fmt.Errorf("--service-cidr: %w", err)
	}
	if f.podCIDRs, err = parsePrefixes(o.podCIDRs); err != nil {
		return fmt.Errorf("--pod-cidr: %w", err)
	}
	if f.clusterDNS != "" && f.clusterDNS != noDNS {
		for _, s := range strings.Split(f.clusterDNS, ",") {
			ip, err := netip.ParseAddr(s)
			if err != nil {
				return fmt.Errorf("--cluster-dns %q: want addresses, or %q", s, noDNS)
			}
			f.dns = append(f.dns, ip)
		}
	}
	c.foreign = &f
	if err := c.parseAnyIPs(o.nodeIPs); err != nil {
		return err
	}
	return c.completeNames()
}

// args are the flags that make another process use this configuration.
func (f *foreignConfig) args() []string {
	args := []string{"--network-only", "--kubeconfig", f.kubeconfig, "--server", f.server, "--cni-bin-dir", f.binDir, "--cni-conf-dir", f.confDir,
		"--cluster-dns", f.clusterDNS, "--metrics-address", f.metrics, "--health-address", f.health}
	if len(f.serviceCIDRs) > 0 {
		args = append(args, "--service-cidr", commas(f.serviceCIDRs))
	}
	if len(f.podCIDRs) > 0 {
		args = append(args, "--pod-cidr", commas(f.podCIDRs))
	}
	return args
}

// checkForeign refuses to be a node where the network of somebody else's cluster is, and the reverse: each would take the other's
// for its own.
func checkForeign(cfg nodeConfig) error {
	if cfg.foreign == nil && cni.Installed(cfg.paths.cni()) {
		return errors.New("this machine has the network of somebody else's cluster: `skep down` removes it")
	}
	if _, err := os.Stat(containerdRecord(cfg.paths)); cfg.foreign != nil && err == nil {
		return errors.New("this machine has a node, running or not: `skep down` removes it")
	}
	return nil
}

// client is how the API is reached.
func (f *foreignConfig) client() (cfg *rest.Config, err error) {
	if f.kubeconfig != "" {
		cfg, err = clientcmd.BuildConfigFromFlags(f.server, f.kubeconfig)
	} else if cfg, err = rest.InClusterConfig(); err == nil && f.server != "" {
		// The usual address is a cluster IP, which works once this agent does.
		cfg.Host = f.server
	}
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("--network-only needs --kubeconfig, or to run in a pod with a service account")
	}
	if err != nil {
		return nil, err
	}
	cfg.ContentType, cfg.QPS, cfg.WarningHandler = kruntime.ContentTypeProtobuf, -1, rest.NoWarnings{}
	return cfg, nil
}

func (n *node) installation() (cni.Installation, error) {
	self, err := os.Executable()
	f := n.cfg.foreign
	return cni.Installation{BinDir: f.binDir, ConfDir: f.confDir, Binary: self, Socket: cni.SocketIn(n.cfg.paths.run), Record: n.cfg.paths.cni()}, err
}

// startForeign starts the network of a node of somebody else's cluster: the container runtime hears of it when all of it works.
func (n *node) startForeign(ctx context.Context) error {
	install, err := n.installation()
	if err != nil {
		return err
	}
	if err := install.Begin(); err != nil {
		return err
	}
	cfg, err := n.cfg.foreign.client()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	if err := n.awaitCluster(ctx, client); err != nil {
		return err
	}
	podCIDRs, err := n.learnNode(ctx, client)
	if err != nil {
		return err
	}
	factory := followers(client)
	pods, err := cni.NewPods(n.cfg.name, factory, client)
	if err != nil {
		return err
	}
	d, err := n.startDatapath(ctx, client, factory, podCIDRs)
	if err != nil {
		return err
	}
	plugins, err := cni.NewServer(cni.Config{Socket: install.Socket, Network: d, Pods: pods, Metrics: prometheus.DefaultRegisterer, Logger: n.logger.With("component", "cni")})
	if err != nil {
		return err
	}
	if err := plugins.Listen(ctx); err != nil {
		return err
	}
	n.group.Go(func() error { return plugins.Run(ctx) })
	if err := n.startReports(ctx, d, factory); err != nil {
		return err
	}
	return n.announce(ctx, install, d.Synced())
}

// announce installs the plugin, and its network as soon as Services work: from then on pods are started here.
func (n *node) announce(ctx context.Context, install cni.Installation, synced <-chan struct{}) error {
	select {
	case <-synced:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := install.InstallPlugin(); err != nil {
		return err
	}
	before, err := install.InstallConfig()
	if err != nil {
		return err
	}
	if before != "" {
		n.logger.Warn("the container runtime prefers another network", "file", before)
	}
	n.clock.reach(pluginReady, n.cfg.name+" "+commas(n.cfg.ips))
	return nil
}

// learnNode waits until the node has addresses and ranges of pod addresses, and returns these.
func (n *node) learnNode(ctx context.Context, client kubernetes.Interface) ([]netip.Prefix, error) {
	n.logger.Info("waiting for the Node to have spec.podCIDRs and an InternalIP", "node", n.cfg.name)
	registered, err := awaitNode(ctx, client, n.cfg.name, func(node *corev1.Node) bool {
		return len(nodeCIDRs(node)) > 0 && (len(n.cfg.ips) > 0 || len(internalIPs(node)) > 0)
	})
	if err != nil {
		return nil, fmt.Errorf("wait for node %s: %w", n.cfg.name, err)
	}
	if len(n.cfg.ips) == 0 {
		n.cfg.ips = internalIPs(registered)
	}
	if err := n.cfg.keepFamilies(); err != nil {
		return nil, err
	}
	podCIDRs, err := parsePrefixes(nodeCIDRs(registered))
	if err != nil {
		return nil, fmt.Errorf("node %s: spec.podCIDRs: %w", n.cfg.name, err)
	}
	return podCIDRs, nil
}

func nodeCIDRs(node *corev1.Node) []string {
	if len(node.Spec.PodCIDRs) == 0 && node.Spec.PodCIDR != "" {
		return []string{node.Spec.PodCIDR}
	}
	return node.Spec.PodCIDRs
}

// internalIPs are the addresses by which a node is reached by others, the first of each family.
func internalIPs(node *corev1.Node) []netip.Addr {
	var list []netip.Addr
	for _, a := range node.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if a.Type == corev1.NodeInternalIP && err == nil && !slices.ContainsFunc(list, func(o netip.Addr) bool { return o.Is4() == ip.Is4() }) {
			list = append(list, ip)
		}
	}
	return list
}

// retryAPI is how long to wait before an API server is asked again that did not answer.
const retryAPI = 2 * time.Second

// awaitCluster learns of the cluster as soon as it answers. What it answers is final.
func (n *node) awaitCluster(ctx context.Context, client kubernetes.Interface) error {
	for {
		err := n.learnCluster(ctx, client)
		var failed *url.Error
		if !errors.As(err, &failed) {
			return err
		}
		n.logger.Warn("the API server does not answer; the network goes on as it is", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryAPI):
		}
	}
}

// learnCluster finds out the ranges of the cluster and its DNS addresses, as far as flags do not say.
func (n *node) learnCluster(ctx context.Context, client kubernetes.Interface) error {
	f := n.cfg.foreign
	told, err := toldRanges(ctx, client)
	if err != nil {
		return err
	}
	n.cfg.podCIDRs, n.cfg.serviceCIDRs = f.podCIDRs, f.serviceCIDRs
	if len(n.cfg.podCIDRs) == 0 {
		n.cfg.podCIDRs = told.pods
	}
	if len(n.cfg.serviceCIDRs) == 0 {
		n.cfg.serviceCIDRs = told.services
	}
	if len(n.cfg.podCIDRs) == 0 || len(n.cfg.serviceCIDRs) == 0 {
		return errors.New("the cluster does not tell its ranges of pod addresses and cluster IPs: give --pod-cidr and --service-cidr, as its controller manager has them")
	}
	if f.clusterDNS != "" {
		return nil
	}
	svc, err := client.CoreV1().Services(metav1.NamespaceSystem).Get(ctx, "kube-dns", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		n.logger.Info("no Service kube-system/kube-dns: pods reach this node's DNS server at its router address alone, unless --cluster-dns names another")
		return nil
	}
	if err != nil {
		return err
	}
	for _, s := range svc.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(s); err == nil {
			f.dns = append(f.dns, ip)
		}
	}
	return nil
}
