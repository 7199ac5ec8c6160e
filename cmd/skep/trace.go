package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/datapath"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/observe"
	"github.com/skep-io/skep/datapath/podnet"
	"github.com/skep-io/skep/datapath/trace"
	"github.com/skep-io/skep/datapath/translate"
	"github.com/skep-io/skep/dns/server"
)

// traceOptions are the flags of skep net trace.
type traceOptions struct {
	from, to, protocol, namespace, backend, node, run string
	sourcePort                                        uint16
	packets, tunnel                                   bool
}

func netTraceCommand(n *netOptions) *cobra.Command {
	var o traceOptions
	cmd := &cobra.Command{
		Use:   "trace --from POD|node|ADDRESS --to HOST:PORT",
		Short: "Follow a packet through the programs: where it goes, what it becomes, and why it does not get there",
		Long: `Follow a packet and its answer through this node's network: name, Service, conntrack, policies, routes, tunnel, masquerade. The programs
that are attached decide about a made-up packet (BPF_PROG_TEST_RUN); nothing is sent anywhere, and the tables are as before afterwards; only a refused packet
stays in the counters of skep net drops. What happens at a socket, and behind XDP, is read from the maps.
A packet for another node is followed there if that is one of --nodes on this machine; else the command that goes on there is printed.
--from is a pod of this node, node (its own processes), or any other address: the packet then enters by the device that leads there.`,
		Example: `  skep net trace --from web-5d4f --to api:80
  skep net trace --from default/web-5d4f --to 203.0.113.7:443 -o json
  skep net trace --from web-5d4f --to kube-dns.kube-system:53 --protocol udp
  skep net trace --from node --to 10.96.0.1:443
  skep net trace --from 192.0.2.77 --to 192.0.2.10:30080
  skep net trace --node node-2 --from web-5d4f --to api:80`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.from == "" || o.to == "" {
				return errors.New("--from and --to are needed: see --help")
			}
			t, err := o.walk(cmd.Context(), n)
			if err != nil {
				return err
			}
			return printAs(cmd.OutOrStdout(), n.output, t, t.WriteText)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "who sends: a pod of this node (name or namespace/name), node, or an address outside")
	f.StringVar(&o.to, "to", "", "where to: an address or a name, and a port")
	f.StringVar(&o.protocol, "protocol", "tcp", "tcp or udp")
	f.StringVarP(&o.namespace, "namespace", "n", metav1.NamespaceDefault, "namespace of the pod")
	f.StringVar(&o.backend, "backend", "", "address of the backend to follow, where a Service has several")
	f.Uint16Var(&o.sourcePort, "source-port", 0, "port of the sender; default: one that no flow has")
	f.BoolVar(&o.packets, "packets", false, "leave out the programs at sockets, as for sandboxes that they do not see")
	f.BoolVar(&o.tunnel, "tunnel", false, "a packet from outside that comes out of the tunnel")
	f.StringVar(&o.node, "node", "", "a further node of this machine to begin at; default: this one")
	f.StringVar(&o.run, "run-dir", defaultPaths().run, "where the node keeps its sockets, for its DNS server's answers")
	return cmd
}

// place is where a node of this machine has its pins, and its network namespace; empty: the caller's.
type place struct{ bpf, run, netns string }

// fellow is the place of a further node of this machine (`skep up --nodes`), below that of the first.
func (p place) fellow(node string) place {
	return place{filepath.Join(p.bpf, nodesFolder, node), filepath.Join(p.run, nodesFolder, node), podnet.Segment{Dir: filepath.Join(p.run, nodesFolder)}.Namespace(node)}
}

// exists says whether the node is one of this machine's.
func (p place) exists() bool {
	_, err := os.Stat(p.netns)
	return err == nil
}

// walk follows the packet at this node, and on at the next one if that is of this machine too. It leaves nothing.
func (o traceOptions) walk(ctx context.Context, n *netOptions) (trace.Trace, error) {
	first := place{bpf: n.bpf, run: o.run}
	at := first
	if o.node != "" {
		if at = first.fellow(o.node); !at.exists() {
			return trace.Trace{}, fmt.Errorf("node %s is none of the further nodes of this machine: run the command there", o.node)
		}
		o.run = at.run
	}
	objects, names := n.traceObjects(ctx), n.names(ctx)
	request, name, err := o.request(ctx, objects)
	if err != nil {
		return trace.Trace{}, err
	}
	if home := objects.home(request); home != "" && o.node == "" && first.fellow(home).exists() {
		at = first.fellow(home)
	}
	t, err := at.walk(objects, names, request)
	if errors.Is(err, trace.ErrNoPod) {
		return t, fmt.Errorf("%w: it is on node %s, run the command there", err, objects.home(request))
	}
	if err != nil {
		return t, err
	}
	if next := t.Onward; next != nil {
		t, err = first.walkOn(objects, names, t, *next)
		if err != nil {
			return t, fmt.Errorf("at node %s: %w", next.Node, err)
		}
	}
	if name != nil {
		t.To += " (" + o.to + ")"
		t.Hops = append([]trace.Hop{*name}, t.Hops...)
	}
	if objects.err != nil {
		t.Notes = append(t.Notes, fmt.Sprintf("names and policies are missing: %v", objects.err))
	}
	return t, nil
}

// is says whether the node here has that name, by the names of nodes' addresses.
func (p place) is(node string, names map[netip.Addr]string) bool {
	m, err := bpfmap.Open(datapath.MapsDir(p.bpf))
	if err != nil {
		return false
	}
	defer m.Close()
	rows, err := m.Nodes().List()
	for a, n := range rows {
		if n.Local && names[a] == node {
			return err == nil
		}
	}
	return false
}

// walkOn follows a packet at the node that it left for, if that is of this machine.
func (p place) walkOn(objects traceObjects, names observe.Names, t trace.Trace, next trace.Onward) (trace.Trace, error) {
	at := p.fellow(next.Node)
	if !at.exists() && p.is(next.Node, objects.nodes) {
		at = p
	} else if !at.exists() {
		t.Notes = append(t.Notes, "walk on at node "+next.Node+" with: "+next.Command())
		return t, nil
	}
	request, err := next.Request()
	if err != nil {
		return t, err
	}
	there, err := at.walk(objects, names, request)
	if err != nil {
		return t, err
	}
	return t.Join(next.Node, there), nil
}

// walk follows a packet through one node.
func (p place) walk(objects traceObjects, names observe.Names, request trace.Request) (t trace.Trace, err error) {
	if p.netns != "" {
		err := podnet.Within(p.netns, func() error {
			t, err = place{bpf: p.bpf, run: p.run}.walk(objects, names, request)
			return err
		})
		return t, err
	}
	dir := datapath.MapsDir(p.bpf)
	m, err := bpfmap.Open(dir)
	if err != nil {
		return t, fmt.Errorf("open the network's maps (is a node up? start it with `skep up`): %w", err)
	}
	defer m.Close()
	view, err := objects.view(m)
	if err != nil {
		return t, err
	}
	view.Names = names
	k, err := trace.OpenNode(p.bpf, dir)
	if errors.Is(err, observe.ErrWatched) {
		return t, fmt.Errorf("%w: end `skep net observe` or the other trace first", err)
	}
	if err != nil {
		return t, err
	}
	view.Kernel = k
	t, err = trace.Walk(view, request)
	return t, errors.Join(err, k.Close())
}

// traceObjects are what the API knows; err says why it does not answer.
type traceObjects struct {
	policy observe.PolicyObjects
	nodes  map[netip.Addr]string
	err    error
}

func (o *netOptions) traceObjects(ctx context.Context) traceObjects {
	var t traceObjects
	cfg, err := adminConfig(o.kubeconfig)
	if err != nil {
		return traceObjects{err: err}
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return traceObjects{err: err}
	}
	if t.policy, err = policyObjects(ctx, client); err != nil {
		return traceObjects{err: err}
	}
	t.nodes = o.nodeNames(ctx)
	return t
}

// view is what the API's objects say, beside the maps.
func (t traceObjects) view(m *bpfmap.Maps) (trace.View, error) {
	v := trace.View{Maps: m, Pods: map[netip.Addr]trace.Pod{}, Nodes: t.nodes}
	for i := range t.policy.Pods {
		p := &t.policy.Pods[i]
		for _, a := range translate.PodAddresses(p) {
			v.Pods[a] = trace.Pod{Name: p.Namespace + "/" + p.Name, Node: p.Spec.NodeName, Unready: unready(p)}
		}
	}
	if t.err != nil {
		return v, nil
	}
	policies, err := observe.NewFlowPolicies(m, t.policy)
	if err != nil {
		return v, err
	}
	v.Policies = policies.Explain
	return v, nil
}

// home is the node of the pod that sends; empty: none is known.
func (t traceObjects) home(r trace.Request) string {
	for i := range t.policy.Pods {
		if p := &t.policy.Pods[i]; r.Kind == trace.FromPod && slices.Contains(translate.PodAddresses(p), r.Source) {
			return p.Spec.NodeName
		}
	}
	return ""
}

// unready says why a pod is not ready; empty: it is.
func unready(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "it is being deleted"
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return ""
		}
		if c.Type == corev1.PodReady && c.Message != "" {
			return c.Message
		}
	}
	return "phase " + string(p.Status.Phase)
}

// request reads the flags. The hop is how the name was resolved; nil: it was an address.
func (o traceOptions) request(ctx context.Context, objects traceObjects) (trace.Request, *trace.Hop, error) {
	r := trace.Request{Kind: trace.FromNode, SourcePort: o.sourcePort, Packets: o.packets, Tunnel: o.tunnel}
	switch strings.ToLower(o.protocol) {
	case "tcp":
		r.Protocol = desired.TCP
	case "udp":
		r.Protocol = desired.UDP
	default:
		return r, nil, fmt.Errorf("--protocol %q: tcp and udp are known", o.protocol)
	}
	if o.backend != "" {
		var err error
		if r.Backend, err = netip.ParseAddr(o.backend); err != nil {
			return r, nil, fmt.Errorf("--backend: %w", err)
		}
	}
	host, port, err := net.SplitHostPort(o.to)
	if err != nil {
		return r, nil, fmt.Errorf("--to %q: want HOST:PORT: %w", o.to, err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return r, nil, fmt.Errorf("--to %q: %q is no port", o.to, port)
	}
	pod, err := o.origin(objects, &r)
	if err != nil {
		return r, nil, err
	}
	var hop *trace.Hop
	target, err := netip.ParseAddr(host)
	if err != nil {
		if target, hop, err = o.resolve(ctx, pod, host); err != nil {
			return r, nil, err
		}
	}
	target = target.Unmap()
	r.Target = netip.AddrPortFrom(target, uint16(number))
	if r.Kind == trace.FromPod {
		if r.Source, err = addressOf(pod, target.Is6()); err != nil {
			return r, hop, err
		}
	}
	return r, hop, nil
}

// origin finds who sends; the pod, if it is one.
func (o traceOptions) origin(objects traceObjects, r *trace.Request) (*corev1.Pod, error) {
	if o.from == "node" || o.from == "host" {
		return nil, nil
	}
	if a, err := netip.ParseAddr(o.from); err == nil {
		r.Kind, r.Source = trace.FromOutside, a.Unmap()
		return nil, nil
	}
	if objects.err != nil {
		return nil, fmt.Errorf("find the pod %s: %w", o.from, objects.err)
	}
	namespace, name := o.namespace, o.from
	if ns, n, ok := strings.Cut(o.from, "/"); ok {
		namespace, name = ns, n
	}
	for i := range objects.policy.Pods {
		p := &objects.policy.Pods[i]
		if p.Namespace != namespace || p.Name != name {
			continue
		}
		if p.Spec.HostNetwork {
			return nil, nil // a process of the node to the network
		}
		r.Kind = trace.FromPod
		return p, nil
	}
	return nil, fmt.Errorf("pod %s/%s: not found", namespace, name)
}

// addressOf is a pod's address of a family.
func addressOf(p *corev1.Pod, six bool) (netip.Addr, error) {
	for _, a := range translate.PodAddresses(p) {
		if a.Is6() == six {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("pod %s/%s has no address of the target's family (%s)", p.Namespace, p.Name, unready(p))
}

// resolve looks a name up: as the pod would, or as the node does.
func (o traceOptions) resolve(ctx context.Context, pod *corev1.Pod, name string) (netip.Addr, *trace.Hop, error) {
	if pod == nil {
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		if err != nil {
			return netip.Addr{}, nil, err
		}
		return addrs[0], &trace.Hop{Where: "name", What: fmt.Sprintf("%s is %s", name, addrs[0].Unmap()), Why: []string{"asked as the node's processes do"}}, nil
	}
	for _, kind := range []string{"A", "AAAA"} {
		for _, full := range podResolver(pod).NameList(name) {
			var e server.Explanation
			query := url.Values{"name": {full}, "type": {kind}, "client": {pod.Status.PodIP}}
			if err := inspect(ctx, o.run, "/resolve?"+query.Encode(), &e); err != nil {
				return netip.Addr{}, nil, fmt.Errorf("look up %s (--to also takes an address): %w", name, err)
			}
			for _, rr := range e.Answers {
				fields := strings.Fields(rr)
				if a, err := netip.ParseAddr(fields[len(fields)-1]); err == nil {
					return a, &trace.Hop{Where: "name", What: fmt.Sprintf("%s is %s", full, a), Why: []string{e.From + ": " + e.Why}}, nil
				}
			}
		}
	}
	return netip.Addr{}, nil, fmt.Errorf("%s has no address for pod %s/%s: see skep dns lookup %s --from %s -n %s", name, pod.Namespace, pod.Name, name, pod.Name, pod.Namespace)
}
