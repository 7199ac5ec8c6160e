package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// filterSet is a set of filters, as bits: those that rejected a pod, or those that an event may make decide differently.
type filterSet uint16

// The filters, in the order in which a node meets them: what is cheap and decides for good comes first.
const (
	byUnschedulable filterSet = 1 << iota
	byNodeName
	byTaint
	byNodeAffinity
	byPort
	byResource
	bySpread
	byPodAffinity
	anyFilter filterSet = 1<<iota - 1
)

// unresolvable are the filters whose verdict no preemption could change.
const unresolvable = byUnschedulable | byNodeName | byTaint | byNodeAffinity

// rejection is why one node did not take the pod: which filter, and its words.
type rejection struct {
	by      filterSet
	reasons []string
}

// check runs the node through the filters and returns the first rejection, or nil. rules are the pod's demands on other pods, worked out
// for all nodes at once.
func check(d *demand, state *nodeState, rules *peerRules) *rejection {
	node := state.node
	if node.Spec.Unschedulable && !d.tolerates(&corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		return reject(byUnschedulable, "node(s) were unschedulable")
	}
	if d.pod.Spec.NodeName != "" && d.pod.Spec.NodeName != node.Name {
		return reject(byNodeName, "node(s) didn't match the requested node name")
	}
	if untolerated(d, node) {
		return reject(byTaint, "node(s) had untolerated taint(s)")
	}
	if !selects(d, node) {
		return reject(byNodeAffinity, "node(s) didn't match Pod's node affinity/selector")
	}
	if portTaken(d, state) {
		return reject(byPort, "node(s) didn't have free ports for the requested pod ports")
	}
	if lacking := insufficient(&d.requests, state); len(lacking) > 0 {
		return &rejection{by: byResource, reasons: lacking}
	}
	return rules.check(state)
}

func reject(by filterSet, reason string) *rejection {
	return &rejection{by: by, reasons: []string{reason}}
}

func untolerated(d *demand, node *corev1.Node) bool {
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !d.tolerates(taint) {
			return true
		}
	}
	return false
}

func selects(d *demand, node *corev1.Node) bool {
	if !d.selects {
		return true
	}
	// An affinity that does not parse matches no node.
	matches, err := d.affinity.Match(node)
	return err == nil && matches
}

func portTaken(d *demand, state *nodeState) bool {
	for _, wanted := range d.ports {
		for taken := range state.ports {
			if wanted.collides(taken) {
				return true
			}
		}
	}
	return false
}

// insufficient names what the node has too little of. A pod that asks for nothing of a resource fits on a node that has none left of it.
func insufficient(requests *amount, state *nodeState) []string {
	var lacking []string
	has, used := &state.allocatable, &state.requested
	if used.pods+1 > has.pods {
		lacking = append(lacking, "Too many pods")
	}
	if requests.milliCPU > 0 && requests.milliCPU > has.milliCPU-used.milliCPU {
		lacking = append(lacking, "Insufficient cpu")
	}
	if requests.memory > 0 && requests.memory > has.memory-used.memory {
		lacking = append(lacking, "Insufficient memory")
	}
	if requests.ephemeral > 0 && requests.ephemeral > has.ephemeral-used.ephemeral {
		lacking = append(lacking, "Insufficient ephemeral-storage")
	}
	for name, wanted := range requests.extended {
		if wanted > 0 && wanted > has.extended[name]-used.extended[name] {
			lacking = append(lacking, fmt.Sprintf("Insufficient %v", name))
		}
	}
	return lacking
}

// nodeChange says which filters may decide differently after a node changed.
func nodeChange(old, node *corev1.Node) filterSet {
	if old == nil {
		return anyFilter
	}
	var changed filterSet
	if !apiequality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable) {
		changed |= byResource
	}
	if !maps.Equal(old.Labels, node.Labels) {
		changed |= byNodeAffinity | byPodAffinity | bySpread
	}
	if !slices.EqualFunc(old.Spec.Taints, node.Spec.Taints, func(a, b corev1.Taint) bool { return a.MatchTaint(&b) && a.Value == b.Value }) {
		changed |= byTaint | bySpread
	}
	if old.Spec.Unschedulable != node.Spec.Unschedulable {
		changed |= byUnschedulable
	}
	return changed
}

// Filters whose verdict may change when a pod goes, and when one is placed.
const (
	podGone   = byPort | byResource | bySpread | byPodAffinity
	podPlaced = bySpread | byPodAffinity
)

// unschedulable is the error of a pod that no node takes. Its message is what users and their tools know from upstream.
type unschedulable struct {
	nodes    int
	reasons  map[string]int
	helpless int // nodes where removing other pods would not help either
	by       filterSet
}

func (u *unschedulable) note(r *rejection) {
	u.by |= r.by
	if r.by&unresolvable != 0 {
		u.helpless++
	}
	for _, reason := range r.reasons {
		u.reasons[reason]++
	}
}

// Error is the histogram of reasons and what preemption could do.
func (u *unschedulable) Error() string {
	if u.nodes == 0 {
		return "no nodes available to schedule pods"
	}
	preemption := map[string]int{}
	if u.helpless > 0 {
		preemption["Preemption is not helpful for scheduling"] = u.helpless
	}
	if rest := u.nodes - u.helpless; rest > 0 {
		preemption["No preemption victims found for incoming pod"] = rest
	}
	return u.histogram(u.reasons) + " preemption: " + u.histogram(preemption)
}

func (u *unschedulable) histogram(counts map[string]int) string {
	parts := make([]string, 0, len(counts))
	for reason, count := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", count, reason))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", u.nodes, strings.Join(parts, ", "))
}
