package observe

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/translate"
)

// PolicyObjects are the API's objects that policies rest on.
type PolicyObjects struct {
	Pods       []corev1.Pod
	Namespaces []corev1.Namespace
	Policies   []networkingv1.NetworkPolicy
}

// PodPolicy is what policies allow to a pod, by the API and by the kernel.
type PodPolicy struct {
	Pod        string            `json:"pod"`
	Node       string            `json:"node"`
	Addresses  []string          `json:"addresses"`
	Directions []DirectionPolicy `json:"directions"`
	// Differences say where the kernel has something else than the API asks for; empty: nowhere.
	Differences []string `json:"differences"`
	// Here says whether the pod is of this node, whose kernel alone is asked.
	Here bool `json:"here"`
}

// DirectionPolicy is one direction of a pod.
type DirectionPolicy struct {
	Direction string `json:"direction"`
	Isolated  bool   `json:"isolated"`
	// Policies are those that isolate the pod.
	Policies []string    `json:"policies,omitempty"`
	Allowed  []Allowance `json:"allowed,omitempty"`
	// Sets are the kernel's numbers of the set, by the pod's address; 0: not isolated.
	Sets map[string]uint32 `json:"sets,omitempty"`
}

// Allowance is a peer with the ports that it may reach, or be reached at.
type Allowance struct {
	// Peer is "anybody", "any pod", a prefix, or what policies see of pods: namespace{labels}.
	Peer  string `json:"peer"`
	Ports string `json:"ports"` // "*": all; "none": an exception
	// Policies are those that allow it.
	Policies []string `json:"policies,omitempty"`
}

// policyReader compares the API's policies with the kernel's rows.
type policyReader struct {
	policies   []*translate.Policy
	namespaces map[string]labels.Set
	// identities are those of all pods, with an address of each.
	identities map[desired.Identity]netip.Addr
	numbers    map[netip.Addr]uint32
	rows       map[bpfmap.PolicyKey]uint32
	ports      map[uint32]desired.Ports
}

// ReadPolicy tells what policies allow to a pod and where the kernel differs.
func ReadPolicy(m *bpfmap.Maps, objects PolicyObjects, namespace, name string) (PodPolicy, error) {
	at := slices.IndexFunc(objects.Pods, func(p corev1.Pod) bool { return p.Namespace == namespace && p.Name == name })
	if at < 0 {
		return PodPolicy{}, fmt.Errorf("pod %s/%s: not found", namespace, name)
	}
	r, err := newPolicyReader(m, objects)
	if err != nil {
		return PodPolicy{}, err
	}
	endpoints, err := m.EndpointPolicies()
	if err != nil {
		return PodPolicy{}, err
	}
	pod := &objects.Pods[at]
	p := PodPolicy{Pod: namespace + "/" + name, Node: pod.Spec.NodeName, Differences: []string{}}
	id := translate.Identity(pod)
	egress, ingress := translate.PolicySets(r.policies, id, pod.Labels)
	out, in := DirectionPolicy{Direction: "egress"}, DirectionPolicy{Direction: "ingress"}
	for _, a := range translate.PodAddresses(pod) {
		p.Addresses = append(p.Addresses, a.String())
		if row, ok := endpoints[a]; ok {
			p.Here = true
			p.Differences = append(p.Differences, r.compare(&out, egress, a, row.Egress)...)
			p.Differences = append(p.Differences, r.compare(&in, ingress, a, row.Ingress)...)
		}
	}
	r.explain(&out, egress)
	r.explain(&in, ingress)
	p.Directions = []DirectionPolicy{out, in}
	return p, nil
}

func newPolicyReader(m *bpfmap.Maps, objects PolicyObjects) (*policyReader, error) {
	r := &policyReader{namespaces: map[string]labels.Set{}, identities: map[desired.Identity]netip.Addr{translate.ClusterDNS(): {}}}
	for i := range objects.Policies {
		// A rule that cannot be read has an event of its own; the rest of the policy counts.
		p, _ := translate.ReadPolicy(&objects.Policies[i])
		r.policies = append(r.policies, p)
	}
	for _, ns := range objects.Namespaces {
		r.namespaces[ns.Name] = ns.Labels
	}
	for i := range objects.Pods {
		for _, a := range translate.PodAddresses(&objects.Pods[i]) {
			r.identities[translate.Identity(&objects.Pods[i])] = a
		}
	}
	var err error
	if r.numbers, err = m.Identities(); err != nil {
		return nil, err
	}
	if r.rows, err = m.PolicyRows(); err != nil {
		return nil, err
	}
	r.ports, err = m.Ports()
	return r, err
}

// rulesOf are the rows that a set has by the API.
func (r *policyReader) rulesOf(set desired.PolicySet) (map[desired.PolicyPeer]desired.Ports, map[netip.Prefix]desired.Ports) {
	rules := translate.Rules(set, r.policies)
	peers := rules.Wide()
	for id := range r.identities {
		podLabels, _ := labels.ConvertSelectorToLabelsMap(id.Labels)
		if ports := rules.Peer(id, podLabels, r.namespaces[id.Namespace]); ports != "" {
			peers[desired.PolicyPeer{Kind: desired.PodsOf, Identity: id}] = ports
		}
	}
	return peers, rules.Blocks()
}

// explain fills in what a set allows, and which of its policies do.
func (r *policyReader) explain(d *DirectionPolicy, set desired.PolicySet) {
	d.Isolated = set.Isolates()
	if !d.Isolated {
		return
	}
	d.Policies = set.Names()
	why := map[string][]string{}
	for _, name := range set.Names() {
		one := set
		one.Policies = name
		peers, blocks := r.rulesOf(one)
		for peer := range peers {
			why[peer.String()] = append(why[peer.String()], name)
		}
		for block, ports := range blocks {
			if ports != "" {
				why[block.String()] = append(why[block.String()], name)
			}
		}
	}
	peers, blocks := r.rulesOf(set)
	for _, peer := range slices.SortedFunc(maps.Keys(peers), func(a, b desired.PolicyPeer) int {
		return cmp.Or(-cmp.Compare(a.Kind, b.Kind), strings.Compare(a.String(), b.String()))
	}) {
		d.Allowed = append(d.Allowed, Allowance{peer.String(), string(peers[peer]), why[peer.String()]})
	}
	for _, block := range slices.SortedFunc(maps.Keys(blocks), func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) }) {
		d.Allowed = append(d.Allowed, Allowance{block.String(), cmp.Or(string(blocks[block]), "none"), why[block.String()]})
	}
}

// compare notes the number that the kernel has for a direction of an address, and returns where its rows are others.
func (r *policyReader) compare(d *DirectionPolicy, set desired.PolicySet, a netip.Addr, number uint32) []string {
	if d.Sets == nil {
		d.Sets = map[string]uint32{}
	}
	d.Sets[a.String()] = number
	prefix := fmt.Sprintf("%s %s: ", a, d.Direction)
	switch {
	case set.Isolates() && number == 0:
		return []string{prefix + "the API isolates it, the kernel does not"}
	case !set.Isolates() && number != 0:
		return []string{fmt.Sprintf("%sthe kernel isolates it by set %d, the API does not", prefix, number)}
	case number == 0:
		return nil
	}
	peers, blocks := r.rulesOf(set)
	want := map[bpfmap.PolicyKey]desired.Ports{}
	named := map[bpfmap.PolicyKey]string{}
	var differences []string
	for peer, ports := range peers {
		key := bpfmap.PolicyKey{Set: number, Peer: r.number(peer)}
		if key.Peer == 0 && peer.Kind == desired.PodsOf {
			differences = append(differences, fmt.Sprintf("%sthe kernel does not know %s", prefix, peer))
			continue
		}
		want[key], named[key] = ports, peer.String()
	}
	for block, ports := range blocks {
		key := bpfmap.PolicyKey{Set: number, Block: block}
		want[key], named[key] = ports, block.String()
	}
	for key, ports := range want {
		if id, ok := r.rows[key]; !ok {
			differences = append(differences, fmt.Sprintf("%sset %d has no row for %s (want %s)", prefix, number, named[key], cmp.Or(ports, "none")))
		} else if got := bpfmap.PortsOf(id, r.ports); got != ports {
			differences = append(differences, fmt.Sprintf("%sset %d allows %s to %s, want %s", prefix, number, cmp.Or(got, "none"), named[key], cmp.Or(ports, "none")))
		}
	}
	for key, id := range r.rows {
		if _, ok := want[key]; key.Set == number && !ok {
			differences = append(differences, fmt.Sprintf("%sset %d allows %s to %s, the API does not", prefix, number, cmp.Or(bpfmap.PortsOf(id, r.ports), "none"), keyName(key)))
		}
	}
	slices.Sort(differences)
	return differences
}

// keyName names a peer that only the kernel has.
func keyName(k bpfmap.PolicyKey) string {
	if k.Block.IsValid() {
		return k.Block.String()
	}
	return fmt.Sprintf("identity %d", k.Peer)
}

// number is the kernel's number of a peer; of pods that it does not know it is 0.
func (r *policyReader) number(p desired.PolicyPeer) uint32 {
	switch {
	case p.Kind == desired.Anybody:
		return uint32(abi.PeerAny)
	case p.Kind == desired.AnyPod:
		return uint32(abi.PeerPod)
	case p.Identity == translate.ClusterDNS():
		return uint32(abi.PeerDNS)
	}
	return r.numbers[r.identities[p.Identity]]
}

// WriteText writes the policy for people.
func (p PodPolicy) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintf(t, "pod %s on node %s, %s\n", p.Pod, p.Node, strings.Join(p.Addresses, " "))
	for _, d := range p.Directions {
		if !d.Isolated {
			fmt.Fprintf(t, "\n%s: not isolated, everything is allowed\n", d.Direction)
			continue
		}
		fmt.Fprintf(t, "\n%s: isolated by %s", d.Direction, strings.Join(d.Policies, ", "))
		for _, a := range slices.Sorted(maps.Keys(d.Sets)) {
			fmt.Fprintf(t, "; %s has set %d", a, d.Sets[a])
		}
		fmt.Fprintln(t)
		if len(d.Allowed) == 0 {
			fmt.Fprintln(t, "  nothing is allowed")
			continue
		}
		fmt.Fprintln(t, "  PEER\tPORTS\tALLOWED BY")
		for _, a := range d.Allowed {
			fmt.Fprintf(t, "  %s\t%s\t%s\n", a.Peer, a.Ports, cmp.Or(strings.Join(a.Policies, ", "), "-"))
		}
	}
	fmt.Fprintln(t)
	switch {
	case !p.Here:
		fmt.Fprintln(t, "the pod is not of this node: ask there what the kernel has")
	case len(p.Differences) == 0:
		fmt.Fprintln(t, "the kernel has the same")
	}
	for _, d := range p.Differences {
		fmt.Fprintln(t, "DIFFERENT "+d)
	}
	return t.Flush()
}
