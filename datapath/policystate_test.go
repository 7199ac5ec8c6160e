package datapath

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/reconcile"
	"github.com/skep-io/skep/datapath/translate"
)

// policyWorld are the objects of a small cluster, with what the API's documentation says about them.
type policyWorld struct {
	namespaces map[string]labels.Set
	pods       map[string]*corev1.Pod
	local      map[string]bool
	policies   map[string]*networkingv1.NetworkPolicy
}

// flowOf is a flow to ask about.
type flowOf struct {
	from, to netip.Addr
	protocol desired.Protocol
	port     uint16
}

func (w *policyWorld) podAt(a netip.Addr) (string, *corev1.Pod) {
	for uid, p := range w.pods {
		if slices.Contains(translate.PodAddresses(p), a) {
			return uid, p
		}
	}
	return "", nil
}

// verdict is what the two ends of a flow say to it.
type verdict struct{ egress, ingress bool }

// decide is what the documentation of the API says, at the ends that are pods of this node.
func (w *policyWorld) decide(f flowOf) verdict {
	v := verdict{true, true}
	if f.from == f.to {
		return v
	}
	if uid, p := w.podAt(f.from); p != nil && w.local[uid] {
		v.egress = w.allows(p, desired.Egress, f.to, f, f.to)
	}
	if uid, p := w.podAt(f.to); p != nil && w.local[uid] {
		v.ingress = w.allows(p, desired.Ingress, f.from, f, f.to)
	}
	return v
}

func (w *policyWorld) allows(subject *corev1.Pod, d desired.Direction, peer netip.Addr, f flowOf, server netip.Addr) bool {
	isolated := false
	for _, p := range w.policies {
		if p.Namespace != subject.Namespace || !selects(&p.Spec.PodSelector, subject.Labels) {
			continue
		}
		if !slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyType(d.String())) {
			continue
		}
		isolated = true
		if d == desired.Ingress {
			for _, r := range p.Spec.Ingress {
				if w.peers(p.Namespace, r.From, peer) && w.ports(r.Ports, f, server) {
					return true
				}
			}
			continue
		}
		for _, r := range p.Spec.Egress {
			if w.peers(p.Namespace, r.To, peer) && w.ports(r.Ports, f, server) {
				return true
			}
		}
	}
	return !isolated
}

func selects(s *metav1.LabelSelector, set labels.Set) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(set)
}

func (w *policyWorld) peers(own string, peers []networkingv1.NetworkPolicyPeer, a netip.Addr) bool {
	_, pod := w.podAt(a)
	for _, p := range peers {
		switch {
		case p.IPBlock != nil:
			in := func(cidr string) bool { return netip.MustParsePrefix(cidr).Contains(a) }
			if in(p.IPBlock.CIDR) && !slices.ContainsFunc(p.IPBlock.Except, in) {
				return true
			}
			continue
		case pod == nil:
			continue
		case p.NamespaceSelector == nil && pod.Namespace != own:
			continue
		case p.NamespaceSelector != nil && !selects(p.NamespaceSelector, w.namespaces[pod.Namespace]):
			continue
		}
		if p.PodSelector == nil || selects(p.PodSelector, pod.Labels) {
			return true
		}
	}
	return len(peers) == 0
}

func (w *policyWorld) ports(ports []networkingv1.NetworkPolicyPort, f flowOf, server netip.Addr) bool {
	for _, p := range ports {
		switch {
		case string(*p.Protocol) != f.protocol.String():
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.Int:
			if last := ptr.Deref(p.EndPort, p.Port.IntVal); int32(f.port) >= p.Port.IntVal && int32(f.port) <= last {
				return true
			}
		default:
			if _, pod := w.podAt(server); pod != nil {
				for _, c := range pod.Spec.Containers[0].Ports {
					if c.Name == p.Port.StrVal && c.Protocol == *p.Protocol && uint16(c.ContainerPort) == f.port {
						return true
					}
				}
			}
		}
	}
	return len(ports) == 0
}

// kernelTables are the tables read back; decide does as bpf/lib/policy.h.
type kernelTables struct {
	endpoints map[netip.Addr]bpfmap.EndpointPolicy
	ids       map[netip.Addr]uint32
	rows      map[bpfmap.PolicyKey]uint32
	ports     map[uint32]desired.Ports
	isolation bool
}

func readTables(t testing.TB, m *bpfmap.Maps) (k kernelTables) {
	t.Helper()
	var errs [5]error
	k.endpoints, errs[0] = m.EndpointPolicies()
	k.ids, errs[1] = m.Identities()
	k.rows, errs[2] = m.PolicyRows()
	k.ports, errs[3] = m.Ports()
	k.isolation, errs[4] = m.Isolation()
	for _, err := range errs {
		must(t, err)
	}
	return k
}

func (k kernelTables) decide(f flowOf) verdict {
	v := verdict{true, true}
	if !k.isolation || f.from == f.to {
		return v
	}
	if set := k.endpoints[f.from].Egress; set != 0 {
		v.egress = k.allows(set, f.to, f)
	}
	if set := k.endpoints[f.to].Ingress; set != 0 {
		v.ingress = k.allows(set, f.from, f)
	}
	return v
}

func (k kernelTables) allows(set uint32, peer netip.Addr, f flowOf) bool {
	id, row := k.ids[peer], uint32(0)
	if id != 0 {
		if row = k.rows[bpfmap.PolicyKey{Set: set, Peer: id}]; row == 0 {
			row = k.rows[bpfmap.PolicyKey{Set: set, Peer: uint32(abi.PeerPod)}]
		}
	}
	found := false
	for bits := peer.BitLen(); bits >= 0; bits-- {
		block, _ := peer.Prefix(bits)
		if ports, ok := k.rows[bpfmap.PolicyKey{Set: set, Block: block}]; ok {
			if k.has(ports, f) {
				return true
			}
			found = true
			break
		}
	}
	if row == 0 && (id != 0 || !found) {
		row = k.rows[bpfmap.PolicyKey{Set: set}]
	}
	return k.has(row, f)
}

func (k kernelTables) has(id uint32, f flowOf) bool {
	if id == uint32(abi.PortsAll) {
		return true
	}
	return slices.ContainsFunc(k.ports[id].Ranges(), func(r desired.PortRange) bool {
		return r.Protocol == f.protocol && r.First <= f.port && f.port <= r.Last
	})
}

const icmp desired.Protocol = 1

func someFlows() (flows []flowOf) {
	addresses := []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.129"), netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("fd01::1")}
	for i := range 8 {
		addresses = append(addresses, podAddress(i))
	}
	for _, from := range addresses {
		for _, to := range addresses {
			for _, port := range []uint16{80, 81, 443, 8050} {
				flows = append(flows, flowOf{from, to, desired.TCP, port})
			}
			flows = append(flows, flowOf{from, to, desired.UDP, 80}, flowOf{from, to, icmp, 0})
		}
	}
	return flows
}

func podAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 7, byte(2 + i)}) }

func oneOf[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func randomSelector(r *rand.Rand) *metav1.LabelSelector {
	return oneOf(r,
		&metav1.LabelSelector{},
		&metav1.LabelSelector{MatchLabels: map[string]string{"app": oneOf(r, "a", "b", "c")}},
		&metav1.LabelSelector{MatchLabels: map[string]string{"tier": oneOf(r, "x", "y")}},
		&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"a"}}}})
}

func randomPeers(r *rand.Rand) (peers []networkingv1.NetworkPolicyPeer) {
	for range r.IntN(3) {
		peers = append(peers, oneOf(r,
			networkingv1.NetworkPolicyPeer{PodSelector: randomSelector(r)},
			networkingv1.NetworkPolicyPeer{NamespaceSelector: randomSelector(r)},
			networkingv1.NetworkPolicyPeer{NamespaceSelector: randomSelector(r), PodSelector: randomSelector(r)},
			networkingv1.NetworkPolicyPeer{IPBlock: oneOf(r,
				&networkingv1.IPBlock{CIDR: "198.51.100.0/24", Except: []string{"198.51.100.128/25"}},
				&networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"198.51.100.0/24", "10.244.0.0/16"}},
				&networkingv1.IPBlock{CIDR: "198.51.100.129/32"}, &networkingv1.IPBlock{CIDR: "10.244.7.0/29"},
				&networkingv1.IPBlock{CIDR: "10.244.7.3/32"}, &networkingv1.IPBlock{CIDR: "::/0"})}))
	}
	return peers
}

func randomPorts(r *rand.Rand) (ports []networkingv1.NetworkPolicyPort) {
	for range r.IntN(3) {
		p := networkingv1.NetworkPolicyPort{Protocol: ptr.To(oneOf(r, corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP))}
		switch r.IntN(5) {
		case 0:
			p.Port = ptr.To(intstr.FromInt32(80))
		case 1:
			p.Port, p.EndPort = ptr.To(intstr.FromInt32(81)), ptr.To[int32](8050)
		case 2:
			p.Port = ptr.To(intstr.FromString("web"))
		case 3:
			p.Port = ptr.To(intstr.FromInt32(443))
		}
		ports = append(ports, p)
	}
	return ports
}

func randomPolicy(r *rand.Rand, namespace, name string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	p.Spec.PodSelector = *randomSelector(r)
	p.Spec.PolicyTypes = oneOf(r, []networkingv1.PolicyType{"Ingress"}, []networkingv1.PolicyType{"Egress"}, []networkingv1.PolicyType{"Ingress", "Egress"})
	for range r.IntN(3) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: randomPeers(r), Ports: randomPorts(r)})
	}
	for range r.IntN(3) {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: randomPeers(r), Ports: randomPorts(r)})
	}
	return p
}

func randomPod(r *rand.Rand, i int) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: oneOf(r, "n1", "n2"), Name: fmt.Sprint("pod", i)}}
	p.Labels = map[string]string{"app": oneOf(r, "a", "b", "c"), "tier": oneOf(r, "x", "y")}
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", Protocol: "TCP", ContainerPort: oneOf[int32](r, 80, 81, 443)}}}}
	p.Status.PodIP = podAddress(i).String()
	return p
}

// change does something to the world and tells the state of it.
func (w *policyWorld) change(t testing.TB, r *rand.Rand, s *policyState) string {
	switch r.IntN(6) {
	case 0:
		ns := oneOf(r, "n1", "n2")
		w.namespaces[ns] = labels.Set{"app": oneOf(r, "a", "b", "c"), "tier": oneOf(r, "x", "y")}
		s.setNamespace(ns, w.namespaces[ns])
		return "namespace " + ns
	case 1, 2:
		i := r.IntN(8)
		uid := fmt.Sprint("uid", i)
		w.pods[uid], w.local[uid] = randomPod(r, i), i < 5
		w.tellPod(s, uid)
		return "pod " + uid
	case 3:
		for _, key := range slices.Sorted(maps.Keys(w.policies))[:min(1, len(w.policies))] {
			p := w.policies[key]
			delete(w.policies, key)
			s.setPolicy(p.Namespace, p.Name, nil)
			return "no policy " + key
		}
		return "nothing"
	default:
		p := randomPolicy(r, oneOf(r, "n1", "n2"), oneOf(r, "p1", "p2", "p3"))
		w.policies[p.Namespace+"/"+p.Name] = p
		w.tellPolicy(t, s, p)
		return "policy " + p.Namespace + "/" + p.Name
	}
}

func (w *policyWorld) tellPod(s *policyState, uid string) {
	p := w.pods[uid]
	s.setPod(uid, policyPod{identity: translate.Identity(p), addresses: translate.PodAddresses(p), local: w.local[uid]})
}

func (w *policyWorld) tellPolicy(t testing.TB, s *policyState, p *networkingv1.NetworkPolicy) {
	read, err := translate.ReadPolicy(p)
	must(t, err)
	s.setPolicy(p.Namespace, p.Name, read)
}

func newPolicyWorld() *policyWorld {
	return &policyWorld{namespaces: map[string]labels.Set{}, pods: map[string]*corev1.Pod{}, local: map[string]bool{}, policies: map[string]*networkingv1.NetworkPolicy{}}
}

// TestPolicyState changes a cluster at random and compares what the kernel's tables decide with what the API's documentation says:
// after each change, after a restart, and at each single write in between, when at each end either the old or the new decision
// must hold.
func TestPolicyState(t *testing.T) {
	flows := someFlows()
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newPolicyWorld()
		var before map[flowOf]verdict
		var m *bpfmap.Maps
		watching, change := false, ""
		m = bpfmap.Fake(func(op, table string) error {
			if !watching {
				return nil
			}
			k := readTables(t, m)
			for _, f := range flows {
				now, then, goal := k.decide(f), before[f], w.decide(f)
				if now.egress != then.egress && now.egress != goal.egress || now.ingress != then.ingress && now.ingress != goal.ingress {
					t.Fatalf("seed %d, %s: at %s %s %v is %v, neither %v as before nor %v", seed, change, op, table, f, now, then, goal)
				}
			}
			return nil
		})
		restart := func() *policyState {
			table, err := reconcile.RestorePolicies(m)
			must(t, err)
			return newPolicyState(table)
		}
		s := restart()
		for i := range 8 { // rows that podnet writes
			must(t, m.PutEndpoint(desired.Endpoint{Address: podAddress(i), IfIndex: 1}, bpfmap.EndpointPolicy{}))
			uid := fmt.Sprint("uid", i)
			w.pods[uid], w.local[uid] = randomPod(r, i), i < 5
			w.tellPod(s, uid)
		}
		must(t, s.table.Apply())
		must(t, s.table.Prune())
		for step := range 24 {
			before = map[flowOf]verdict{}
			k := readTables(t, m)
			for _, f := range flows {
				before[f] = k.decide(f)
			}
			fresh := step%8 == 7
			if fresh { // news while the process is away
				scratch := newPolicyState(mustRestore(t, bpfmap.Fake(nil)))
				change = "restart after " + w.change(t, r, scratch)
				s = restart()
				for ns, set := range w.namespaces {
					s.setNamespace(ns, set)
				}
				for _, p := range w.policies {
					w.tellPolicy(t, s, p)
				}
				for uid := range w.pods {
					w.tellPod(s, uid)
				}
			} else {
				change = w.change(t, r, s)
			}
			watching = true
			must(t, s.table.Apply())
			if fresh {
				must(t, s.table.Prune())
			}
			watching = false
			k = readTables(t, m)
			for _, f := range flows {
				if got, want := k.decide(f), w.decide(f); got != want {
					t.Fatalf("seed %d step %d, %s: %v is %v, want %v", seed, step, change, f, got, want)
				}
			}
		}
		clear(w.policies)
		for _, ns := range []string{"n1", "n2"} {
			for _, name := range []string{"p1", "p2", "p3"} {
				s.setPolicy(ns, name, nil)
			}
		}
		must(t, s.table.Apply())
		k := readTables(t, m)
		if len(k.rows)+len(k.ports) != 0 || k.isolation {
			t.Fatalf("seed %d: rows are left: %v %v isolation=%t", seed, k.rows, k.ports, k.isolation)
		}
	}
}

func mustRestore(t testing.TB, m *bpfmap.Maps) *reconcile.Policies {
	table, err := reconcile.RestorePolicies(m)
	must(t, err)
	return table
}
