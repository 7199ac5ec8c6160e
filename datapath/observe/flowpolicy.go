package observe

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/translate"
)

// FlowPolicies explains what policies say about flows, by the API's objects.
type FlowPolicies struct {
	reader *policyReader
	pods   map[netip.Addr]*corev1.Pod
	// here are the addresses of this node's pods, whose policies its kernel asks.
	here  map[netip.Addr]bpfmap.EndpointPolicy
	nodes map[netip.Addr]desired.Node
}

// NewFlowPolicies reads what it needs from the maps; it never changes afterwards.
func NewFlowPolicies(m *bpfmap.Maps, objects PolicyObjects) (*FlowPolicies, error) {
	p := &FlowPolicies{pods: map[netip.Addr]*corev1.Pod{}}
	var err error
	if p.reader, err = newPolicyReader(m, objects); err != nil {
		return nil, err
	}
	if p.here, err = m.EndpointPolicies(); err != nil {
		return nil, err
	}
	for i := range objects.Pods {
		for _, a := range translate.PodAddresses(&objects.Pods[i]) {
			p.pods[a] = &objects.Pods[i]
		}
	}
	p.nodes, err = m.Nodes().List()
	return p, err
}

// Explain says for both ends of a flow that are pods of this node which policies isolate them, and which allow the flow.
func (p *FlowPolicies) Explain(from netip.Addr, to netip.AddrPort, protocol desired.Protocol) []string {
	var lines []string
	end := func(subject, peer netip.Addr, d desired.Direction) {
		if line := p.explain(subject, peer, d, desired.PortRange{Protocol: protocol, First: to.Port(), Last: to.Port()}); line != "" {
			lines = append(lines, line)
		}
	}
	end(from, to.Addr(), desired.Egress)
	end(to.Addr(), from, desired.Ingress)
	return lines
}

func (p *FlowPolicies) explain(subject, peer netip.Addr, d desired.Direction, port desired.PortRange) string {
	pod := p.pods[subject]
	if _, here := p.here[subject]; pod == nil || !here {
		return ""
	}
	prefix := fmt.Sprintf("%s of pod %s/%s: ", strings.ToLower(d.String()), pod.Namespace, pod.Name)
	egress, ingress := translate.PolicySets(p.reader.policies, translate.Identity(pod), pod.Labels)
	set := egress
	if d == desired.Ingress {
		set = ingress
	}
	switch {
	case !set.Isolates():
		return prefix + "no policy isolates it"
	case subject == peer:
		return prefix + "a pod reaches itself"
	case d == desired.Ingress && p.nodes[peer].Local, d == desired.Egress && p.nodes[peer].Local && port.First != 53:
		return prefix + "policies leave the node and its pods alone"
	}
	var allowing []string
	for _, name := range set.Names() {
		one := set
		one.Policies = name
		if p.allows(one, peer, port) {
			allowing = append(allowing, name)
		}
	}
	if len(allowing) == 0 {
		return fmt.Sprintf("%sisolated by %s, none of which allows %s %s %s", prefix, strings.Join(set.Names(), ", "), port, preposition(d), p.peerName(peer))
	}
	return fmt.Sprintf("%sallowed by %s", prefix, strings.Join(allowing, ", "))
}

func preposition(d desired.Direction) string {
	if d == desired.Ingress {
		return "from"
	}
	return "to"
}

func (p *FlowPolicies) peerName(a netip.Addr) string {
	if pod := p.pods[a]; pod != nil {
		return pod.Namespace + "/" + pod.Name
	}
	return a.String()
}

// allows asks a set as the programs do: the narrowest row of the peer, and the longest prefix besides.
func (p *FlowPolicies) allows(set desired.PolicySet, peer netip.Addr, port desired.PortRange) bool {
	rules := translate.Rules(set, p.reader.policies)
	wide := rules.Wide()
	ports := wide[desired.PolicyPeer{Kind: desired.Anybody}]
	identity, isPod := desired.Identity{}, false
	if pod := p.pods[peer]; pod != nil {
		identity, isPod = translate.Identity(pod), true
	} else if p.nodes[peer].Local { // its DNS server: other ports are always allowed
		identity, isPod = translate.ClusterDNS(), true
	}
	if isPod {
		podLabels, _ := labels.ConvertSelectorToLabelsMap(identity.Labels)
		ports = ports.Union(wide[desired.PolicyPeer{Kind: desired.AnyPod}]).Union(rules.Peer(identity, podLabels, p.reader.namespaces[identity.Namespace]))
	}
	if includes(ports, port) {
		return true
	}
	blocks := rules.Blocks()
	prefixes := slices.SortedFunc(maps.Keys(blocks), func(a, b netip.Prefix) int { return b.Bits() - a.Bits() })
	at := slices.IndexFunc(prefixes, func(b netip.Prefix) bool { return b.Contains(peer) })
	return at >= 0 && includes(blocks[prefixes[at]], port)
}

func includes(ports desired.Ports, port desired.PortRange) bool {
	return ports == desired.AllPorts || slices.ContainsFunc(ports.Ranges(), func(r desired.PortRange) bool {
		return r.Protocol == port.Protocol && r.First <= port.First && port.Last <= r.Last
	})
}
