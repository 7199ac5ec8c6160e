package translate

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	netutils "k8s.io/utils/net"

	"github.com/skep-io/skep/datapath/desired"
)

// Identity returns what policies see of a pod.
func Identity(pod *corev1.Pod) desired.Identity {
	id := desired.Identity{Namespace: pod.Namespace, Labels: labels.Set(pod.Labels).String()}
	var ports []string
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if protocol, ok := protocolOf(p.Protocol); ok && p.Name != "" {
				ports = append(ports, fmt.Sprintf("%s/%s=%d", p.Name, protocol, p.ContainerPort))
			}
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	slices.Sort(ports)
	id.Ports = strings.Join(slices.Compact(ports), ",")
	return id
}

// PodAddresses are the addresses that are a pod's own: none on the node's network, and none once all its containers have ended.
func PodAddresses(pod *corev1.Pod) []netip.Addr {
	if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	var list []netip.Addr
	for _, ip := range append([]corev1.PodIP{{IP: pod.Status.PodIP}}, pod.Status.PodIPs...) {
		if a, err := netip.ParseAddr(ip.IP); err == nil && !slices.Contains(list, a.Unmap()) {
			list = append(list, a.Unmap())
		}
	}
	return list
}

// ClusterDNS is the identity of cluster DNS: each node answers its own pods, but policies speak of it as of the usual pods.
func ClusterDNS() desired.Identity {
	return desired.Identity{Namespace: metav1.NamespaceSystem, Labels: "k8s-app=kube-dns", Ports: "dns-tcp/TCP=53,dns/UDP=53"}
}

// Policy is a NetworkPolicy that was read once. It is never changed.
type Policy struct {
	Namespace, Name string
	subject         labels.Selector
	isolates        [2]bool // by desired.Direction
	rules           [2][]policyRule
}

// policyRule allows its ports to its peers.
type policyRule struct {
	anybody bool // there are no peers: all are
	peers   []policyPeer
	ports   policyPorts
}

// policyPeer are pods, or a block of addresses.
type policyPeer struct {
	// namespaces is nil for the policy's own; pods is never nil but for a block.
	namespaces, pods labels.Selector
	block            *block
}

type block struct {
	cidr   netip.Prefix
	except []netip.Prefix
}

// policyPorts are numbers, and names that each subject or peer knows by other numbers.
type policyPorts struct {
	fixed desired.Ports
	// named are name/protocol.
	named []string
}

// ReadPolicy reads a policy. What the API server would not accept is left out and named by the error; the policy isolates all
// the same, since what is denied too much is noticed.
func ReadPolicy(p *networkingv1.NetworkPolicy) (*Policy, error) {
	out := &Policy{Namespace: p.Namespace, Name: p.Name}
	var err error
	if out.subject, err = metav1.LabelSelectorAsSelector(&p.Spec.PodSelector); err != nil {
		out.subject = labels.Nothing()
		return out, fmt.Errorf("networkpolicy %s/%s: %w", p.Namespace, p.Name, err)
	}
	for _, t := range policyTypes(p) {
		out.isolates[t] = true
	}
	read := func(d desired.Direction, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
		rule, ruleErr := readRule(peers, ports)
		if ruleErr != nil {
			err = fmt.Errorf("networkpolicy %s/%s: %w", p.Namespace, p.Name, ruleErr)
		}
		out.rules[d] = append(out.rules[d], rule)
	}
	for _, r := range p.Spec.Ingress {
		read(desired.Ingress, r.From, r.Ports)
	}
	for _, r := range p.Spec.Egress {
		read(desired.Egress, r.To, r.Ports)
	}
	return out, err
}

// policyTypes defaults as the API server does: a policy may come from another one.
func policyTypes(p *networkingv1.NetworkPolicy) []desired.Direction {
	if len(p.Spec.PolicyTypes) == 0 {
		if len(p.Spec.Egress) > 0 {
			return []desired.Direction{desired.Ingress, desired.Egress}
		}
		return []desired.Direction{desired.Ingress}
	}
	var types []desired.Direction
	for _, t := range p.Spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			types = append(types, desired.Ingress)
		case networkingv1.PolicyTypeEgress:
			types = append(types, desired.Egress)
		}
	}
	return types
}

func readRule(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) (policyRule, error) {
	rule := policyRule{anybody: len(peers) == 0, ports: readPorts(ports)}
	var wrong error
	for i := range peers {
		peer, err := readPeer(&peers[i])
		if err != nil {
			wrong = err
			continue
		}
		rule.peers = append(rule.peers, peer)
	}
	return rule, wrong
}

func readPeer(p *networkingv1.NetworkPolicyPeer) (peer policyPeer, err error) {
	if p.IPBlock != nil {
		peer.block, err = readBlock(p.IPBlock)
		return peer, err
	}
	peer.pods = labels.Everything()
	if p.PodSelector != nil {
		if peer.pods, err = metav1.LabelSelectorAsSelector(p.PodSelector); err != nil {
			return peer, err
		}
	}
	if p.NamespaceSelector != nil {
		peer.namespaces, err = metav1.LabelSelectorAsSelector(p.NamespaceSelector)
	}
	return peer, err
}

func readBlock(b *networkingv1.IPBlock) (*block, error) {
	cidr, err := readPrefix(b.CIDR)
	if err != nil {
		return nil, err
	}
	out := &block{cidr: cidr}
	for _, e := range b.Except {
		except, err := readPrefix(e)
		if err != nil {
			return nil, err
		}
		out.except = append(out.except, except)
	}
	return out, nil
}

// readPrefix reads a range as leniently as the API server stores it: leading zeros mean nothing.
func readPrefix(s string) (netip.Prefix, error) {
	_, n, err := netutils.ParseCIDRSloppy(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if a.Unmap().Is4() && size == 128 {
		bits -= 96
	}
	return a.Unmap().Prefix(bits)
}

func readPorts(list []networkingv1.NetworkPolicyPort) policyPorts {
	if len(list) == 0 {
		return policyPorts{fixed: desired.AllPorts}
	}
	var ports policyPorts
	var ranges []desired.PortRange
	for _, p := range list {
		name := corev1.ProtocolTCP
		if p.Protocol != nil {
			name = *p.Protocol
		}
		protocol, ok := protocolOf(name)
		switch {
		case !ok: // SCTP is not carried
		case p.Port == nil:
			ranges = append(ranges, desired.PortRange{Protocol: protocol, First: 0, Last: 65535})
		case p.Port.Type == intstr.String:
			ports.named = append(ports.named, fmt.Sprintf("%s/%s", p.Port.StrVal, protocol))
		default:
			r := desired.PortRange{Protocol: protocol, First: uint16(p.Port.IntVal), Last: uint16(p.Port.IntVal)}
			if p.EndPort != nil {
				r.Last = uint16(*p.EndPort)
			}
			ranges = append(ranges, r)
		}
	}
	ports.fixed = desired.NewPorts(ranges)
	return ports
}

// of are the numbers of the ports for a pod that has these named ones.
func (p policyPorts) of(named string) desired.Ports {
	ports := p.fixed
	if len(p.named) == 0 || named == "" {
		return ports
	}
	for entry := range strings.SplitSeq(named, ",") {
		name, value, _ := strings.Cut(entry, "=")
		if slices.Contains(p.named, name) {
			_, protocol, _ := strings.Cut(name, "/")
			ports = ports.Union(desired.Ports(protocol + ":" + value))
		}
	}
	return ports
}

// PolicySets returns the sets that isolate a pod. policies are those of its namespace, in any order.
func PolicySets(policies []*Policy, id desired.Identity, podLabels labels.Set) (egress, ingress desired.PolicySet) {
	var names [2][]string
	var refers []string
	for _, p := range policies {
		if p.Namespace != id.Namespace || !p.subject.Matches(podLabels) {
			continue
		}
		for d := range names {
			if p.isolates[d] {
				names[d] = append(names[d], p.Name)
			}
		}
		if p.isolates[desired.Ingress] {
			for _, r := range p.rules[desired.Ingress] {
				refers = append(refers, r.ports.named...)
			}
		}
	}
	set := func(d desired.Direction) desired.PolicySet {
		if len(names[d]) == 0 {
			return desired.PolicySet{}
		}
		slices.Sort(names[d])
		return desired.PolicySet{Direction: d, Namespace: id.Namespace, Policies: strings.Join(names[d], ",")}
	}
	egress, ingress = set(desired.Egress), set(desired.Ingress)
	if ingress.Isolates() {
		ingress.Ports = namedPorts(id.Ports, refers)
	}
	return egress, ingress
}

// namedPorts are those entries of a pod's named ports that are referred to.
func namedPorts(ports string, refers []string) string {
	if ports == "" || len(refers) == 0 {
		return ""
	}
	entries := slices.DeleteFunc(strings.Split(ports, ","), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return !slices.Contains(refers, name)
	})
	return strings.Join(entries, ",")
}

// PolicyRules are the rules of a policy set.
type PolicyRules struct {
	set   desired.PolicySet
	rules []policyRule
	// anybody and pod are what the rows of those peers allow.
	anybody, pod desired.Ports
}

// Rules returns the rules of a set; policies are at least those that it names.
func Rules(set desired.PolicySet, policies []*Policy) PolicyRules {
	r := PolicyRules{set: set}
	names := set.Names()
	for _, p := range policies {
		if p.Namespace == set.Namespace && slices.Contains(names, p.Name) && p.isolates[set.Direction] {
			r.rules = append(r.rules, p.rules[set.Direction]...)
		}
	}
	for _, rule := range r.rules {
		if rule.anybody {
			r.anybody = r.anybody.Union(r.ports(rule, ""))
		}
	}
	r.pod = r.anybody
	for _, rule := range r.rules {
		if slices.ContainsFunc(rule.peers, policyPeer.anyPod) {
			r.pod = r.pod.Union(r.ports(rule, ""))
		}
	}
	return r
}

func (p policyPeer) anyPod() bool {
	return p.block == nil && p.namespaces != nil && p.namespaces.Empty() && p.pods.Empty()
}

// ports are a rule's ports: named ones are the subject's where it answers, and the peer's where that does.
func (r PolicyRules) ports(rule policyRule, peer string) desired.Ports {
	if r.set.Direction == desired.Ingress {
		return rule.ports.of(r.set.Ports)
	}
	return rule.ports.of(peer)
}

// Wide returns the rows for peers that are no single identity.
func (r PolicyRules) Wide() map[desired.PolicyPeer]desired.Ports {
	rows := map[desired.PolicyPeer]desired.Ports{}
	if r.anybody != "" {
		rows[desired.PolicyPeer{Kind: desired.Anybody}] = r.anybody
	}
	if r.pod != r.anybody {
		rows[desired.PolicyPeer{Kind: desired.AnyPod}] = r.pod
	}
	return rows
}

// Peer returns what the set allows to pods of an identity, empty where they need no row of their own: the wider rows say it all.
func (r PolicyRules) Peer(id desired.Identity, podLabels, namespaceLabels labels.Set) desired.Ports {
	ports := r.pod
	for _, rule := range r.rules {
		if ports == desired.AllPorts {
			break
		}
		if rule.anybody || slices.ContainsFunc(rule.peers, func(p policyPeer) bool {
			return p.selects(r.set.Namespace, id, podLabels, namespaceLabels)
		}) {
			ports = ports.Union(r.ports(rule, id.Ports))
		}
	}
	if ports == r.pod {
		return ""
	}
	return ports
}

func (p policyPeer) selects(own string, id desired.Identity, podLabels, namespaceLabels labels.Set) bool {
	switch {
	case p.block != nil:
		return false
	case p.namespaces == nil && id.Namespace != own:
		return false
	case p.namespaces != nil && !p.namespaces.Matches(namespaceLabels):
		return false
	}
	return p.pods.Matches(podLabels)
}

// ipv4 are all addresses of IPv4.
var ipv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// Blocks returns the rows for addresses: each prefix at which a block begins or is excepted, with what all blocks around it
// allow.
func (r PolicyRules) Blocks() map[netip.Prefix]desired.Ports {
	rows := map[netip.Prefix]desired.Ports{}
	type from struct {
		*block
		ports desired.Ports
	}
	starts := map[netip.Prefix][]from{}
	for _, rule := range r.rules {
		for _, p := range rule.peers {
			if p.block == nil {
				continue
			}
			starts[p.block.cidr] = append(starts[p.block.cidr], from{p.block, r.ports(rule, "")})
			rows[p.block.cidr] = r.anybody
			for _, e := range p.block.except {
				rows[e] = r.anybody
			}
		}
	}
	for prefix := range maps.Clone(rows) {
		for bits := prefix.Bits(); bits >= 0; bits-- {
			around, _ := prefix.Addr().Prefix(bits)
			for _, b := range starts[around] {
				if !b.excepts(prefix) {
					rows[prefix] = rows[prefix].Union(b.ports)
				}
			}
		}
		// To the kernel IPv4 is a part of IPv6, which to a policy it is not.
		if _, exists := rows[ipv4]; !exists && prefix.Addr().Is6() && prefix.Contains(netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff})) {
			rows[ipv4] = r.anybody
		}
	}
	return rows
}

func (b *block) excepts(p netip.Prefix) bool {
	return slices.ContainsFunc(b.except, func(e netip.Prefix) bool { return e.Bits() <= p.Bits() && e.Contains(p.Addr()) })
}
