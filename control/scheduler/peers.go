package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxGroups bounds how many selections are counted. They are a cache: dropping them costs one pass over the pods each.
const maxGroups = 4096

// group counts, per node, the pods of a selection.
type group struct {
	selection
	perNode map[string]int
}

// holder counts, per node, the pods that refuse the pods of a term near them.
type holder struct {
	term
	perNode map[string]int
}

// peerIndex keeps the counts that demands between pods need. A selection is counted from its first use on, by the events of single
// pods, so that a pod with affinity costs no walk over all pods.
type peerIndex struct {
	namespaceLabels func(namespace string) map[string]string
	groups          map[string]*group
	byNamespace     map[string][]*group
	wide            []*group
	holders         map[string]*holder
}

func newPeerIndex(namespaceLabels func(namespace string) map[string]string) *peerIndex {
	p := &peerIndex{namespaceLabels: namespaceLabels, holders: map[string]*holder{}}
	p.forget()
	return p
}

// forget drops all groups; they are counted anew when asked for. Namespaces that change their labels need it.
func (p *peerIndex) forget() {
	p.groups, p.byNamespace, p.wide = map[string]*group{}, map[string][]*group{}, nil
}

func (p *peerIndex) account(d *demand, node string, sign int) {
	for _, g := range p.byNamespace[d.pod.Namespace] {
		p.count(g, d.pod, node, sign)
	}
	for _, g := range p.wide {
		p.count(g, d.pod, node, sign)
	}
	for _, t := range d.peers.refuse {
		key := t.key + "|" + t.topologyKey
		h := p.holders[key]
		if h == nil {
			h = &holder{term: t, perNode: map[string]int{}}
			p.holders[key] = h
		}
		if bump(h.perNode, node, sign); len(h.perNode) == 0 {
			delete(p.holders, key)
		}
	}
}

func (p *peerIndex) count(g *group, pod *corev1.Pod, node string, sign int) {
	if g.matches(pod, p.namespaceLabels) {
		bump(g.perNode, node, sign)
	}
}

// group returns the counts of a selection, from pods when it is new.
func (p *peerIndex) group(s selection, pods map[types.UID]placement) *group {
	if g := p.groups[s.key]; g != nil {
		return g
	}
	if len(p.groups) >= maxGroups {
		p.forget()
	}
	g := &group{selection: s, perNode: map[string]int{}}
	p.groups[s.key] = g
	if s.wide != nil {
		p.wide = append(p.wide, g)
	} else {
		for _, namespace := range s.namespaces {
			p.byNamespace[namespace] = append(p.byNamespace[namespace], g)
		}
	}
	for _, placed := range pods {
		p.count(g, placed.demand.pod, placed.node, 1)
	}
	return g
}

// domains are the counts of a selection summed up by the values of a topology key.
type domains struct {
	key    string
	counts map[string]int
}

func (d *domains) at(node *corev1.Node) (count int, labelled bool) {
	value, labelled := node.Labels[d.key]
	return d.counts[value], labelled
}

// spreadRule is a spread constraint with its counts; lowest is the count of the emptiest domain.
type spreadRule struct {
	domains
	*spread
	lowest int
}

// peerRules are a pod's demands on other pods, and theirs on it, against all nodes. Nil demands nothing.
type peerRules struct {
	require, refuse, refusedBy []domains
	// alone: no pod matches the required affinity yet, but this one does itself. It may start the company.
	alone      bool
	wishes     []domains
	weights    []int64
	hard, soft []spreadRule
}

func (c *cluster) rules(d *demand) *peerRules {
	if d.peers.empty() && len(c.peers.holders) == 0 {
		return nil
	}
	r := &peerRules{alone: len(d.peers.require) > 0}
	for _, t := range d.peers.require {
		sums := c.domains(t.topologyKey, c.peers.group(t.selection, c.pods).perNode)
		r.require = append(r.require, sums)
		r.alone = r.alone && len(sums.counts) == 0 && t.matches(d.pod, c.peers.namespaceLabels)
	}
	for _, t := range d.peers.refuse {
		r.refuse = append(r.refuse, c.domains(t.topologyKey, c.peers.group(t.selection, c.pods).perNode))
	}
	for _, h := range c.peers.holders {
		if h.matches(d.pod, c.peers.namespaceLabels) {
			r.refusedBy = append(r.refusedBy, c.domains(h.topologyKey, h.perNode))
		}
	}
	for _, w := range d.peers.wishes {
		r.wishes = append(r.wishes, c.domains(w.topologyKey, c.peers.group(w.selection, c.pods).perNode))
		r.weights = append(r.weights, w.weight)
	}
	for i := range d.peers.hard {
		r.hard = append(r.hard, c.spreadRule(d, &d.peers.hard[i], d.peers.hard))
	}
	for i := range d.peers.soft {
		r.soft = append(r.soft, c.spreadRule(d, &d.peers.soft[i], d.peers.soft))
	}
	return r
}

func (c *cluster) domains(key string, perNode map[string]int) domains {
	sums := domains{key: key, counts: map[string]int{}}
	for name, count := range perNode {
		if state := c.nodes[name]; state != nil && state.node != nil {
			if value, ok := state.node.Labels[key]; ok {
				sums.counts[value] += count
			}
		}
	}
	return sums
}

// spreadRule counts the domains of a constraint over the nodes that the pod could be on: those that have the keys of all constraints.
func (c *cluster) spreadRule(d *demand, s *spread, all []spread) spreadRule {
	perNode := c.peers.group(s.selection, c.pods).perNode
	rule := spreadRule{domains: domains{key: s.topologyKey, counts: map[string]int{}}, spread: s}
	for _, state := range c.order {
		if s.affinityHonored && !selects(d, state.node) || s.taintsHonored && untolerated(d, state.node) || !labelledForAll(state.node, all) {
			continue
		}
		rule.counts[state.node.Labels[s.topologyKey]] += perNode[state.name]
	}
	first := true
	for _, count := range rule.counts {
		if first || count < rule.lowest {
			rule.lowest, first = count, false
		}
	}
	if len(rule.counts) < s.minDomains {
		rule.lowest = 0
	}
	return rule
}

func labelledForAll(node *corev1.Node, all []spread) bool {
	for i := range all {
		if _, ok := node.Labels[all[i].topologyKey]; !ok {
			return false
		}
	}
	return true
}

func (r *peerRules) check(state *nodeState) *rejection {
	if r == nil {
		return nil
	}
	for i := range r.hard {
		count, labelled := r.hard[i].at(state.node)
		if !labelled {
			return reject(bySpread, "node(s) didn't match pod topology spread constraints (missing required label)")
		}
		if count+r.hard[i].self-r.hard[i].lowest > r.hard[i].maxSkew {
			return reject(bySpread, "node(s) didn't match pod topology spread constraints")
		}
	}
	for i := range r.require {
		if count, labelled := r.require[i].at(state.node); !labelled || count == 0 && !r.alone {
			return reject(byPodAffinity, "node(s) didn't match pod affinity rules")
		}
	}
	for i := range r.refuse {
		if count, labelled := r.refuse[i].at(state.node); labelled && count > 0 {
			return reject(byPodAffinity, "node(s) didn't match pod anti-affinity rules")
		}
	}
	for i := range r.refusedBy {
		if count, labelled := r.refusedBy[i].at(state.node); labelled && count > 0 {
			return reject(byPodAffinity, "node(s) didn't satisfy existing pods anti-affinity rules")
		}
	}
	return nil
}

// preference is the node's worth by preferred affinity and soft spread; only differences between nodes mean something.
func (r *peerRules) preference(state *nodeState) int64 {
	if r == nil {
		return 0
	}
	var sum int64
	for i := range r.wishes {
		if count, labelled := r.wishes[i].at(state.node); labelled {
			sum += r.weights[i] * int64(count)
		}
	}
	for i := range r.soft {
		// A node without the key is in no domain: the worst place for a pod that wants to be spread.
		count, labelled := r.soft[i].at(state.node)
		if !labelled {
			count = len(r.soft[i].counts) + r.soft[i].lowest
		}
		sum -= int64(count)
	}
	return sum
}
