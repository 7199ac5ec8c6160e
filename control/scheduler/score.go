package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

const (
	maxScore = 100
	// Weights of the scores, as upstream's.
	weightTaint    = 3
	weightAffinity = 2
	weightOwner    = 2
	weightPeers    = 2
	// An image counts from smallImage bytes on and no more than largeImage a container.
	smallImage = 23 << 20
	largeImage = 1000 << 20
)

// scored is a node that fits, with the counts that only compare within the set of nodes that fit.
type scored struct {
	state  *nodeState
	own    float64 // sum of the scores that stand alone
	taints int     // PreferNoSchedule taints that are not tolerated: fewer is better
	likes  int64   // weight of matching preferred affinity: more is better
	owner  int     // pods of the same owner: fewer is better
	peers  int64   // preferred pod affinity less anti-affinity and soft spread: more is better
}

func (c *cluster) score(d *demand, state *nodeState, rules *peerRules) scored {
	s := scored{
		state: state,
		own:   leastAllocated(d, state) + balanced(d, state) + c.imageLocality(d, state),
		peers: rules.preference(state),
	}
	for i := range state.node.Spec.Taints {
		if taint := &state.node.Spec.Taints[i]; taint.Effect == corev1.TaintEffectPreferNoSchedule && !d.tolerates(taint) {
			s.taints++
		}
	}
	if d.likes != nil {
		s.likes = d.likes.Score(state.node)
	}
	if d.owner != "" {
		s.owner = state.owners[d.owner]
	}
	return s
}

// best picks the node with the highest sum; among equals the first one, which is a different one each time since the walk's start moves.
func best(fitting []scored) *nodeState {
	var taints, owner int
	var likes int64
	lowest, highest := int64(math.MaxInt64), int64(math.MinInt64)
	for i := range fitting {
		taints, owner, likes = max(taints, fitting[i].taints), max(owner, fitting[i].owner), max(likes, fitting[i].likes)
		lowest, highest = min(lowest, fitting[i].peers), max(highest, fitting[i].peers)
	}
	var winner *nodeState
	top := math.Inf(-1)
	for i := range fitting {
		s := &fitting[i]
		sum := s.own +
			weightTaint*(maxScore-share(int64(s.taints), int64(taints))) +
			weightAffinity*share(s.likes, likes) +
			weightOwner*(maxScore-share(int64(s.owner), int64(owner))) +
			weightPeers*share(s.peers-lowest, highest-lowest)
		if sum > top {
			top, winner = sum, s.state
		}
	}
	return winner
}

// share is part of whole on the scale of scores.
func share(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return maxScore * float64(part) / float64(whole)
}

// fractions are the parts of CPU and memory in use with the pod on the node.
func fractions(d *demand, state *nodeState) (cpu, memory float64) {
	return fraction(state.usage.milliCPU+d.usage.milliCPU, state.allocatable.milliCPU),
		fraction(state.usage.memory+d.usage.memory, state.allocatable.memory)
}

func fraction(used, capacity int64) float64 {
	if capacity <= 0 {
		return 1
	}
	return min(1, float64(used)/float64(capacity))
}

func leastAllocated(d *demand, state *nodeState) float64 {
	cpu, memory := fractions(d, state)
	return maxScore * (1 - (cpu+memory)/2)
}

// balanced prefers nodes whose CPU and memory run out together.
func balanced(d *demand, state *nodeState) float64 {
	cpu, memory := fractions(d, state)
	return maxScore * (1 - math.Abs(cpu-memory)/2)
}

// imageLocality prefers nodes that have the pod's images, less so for an image that few nodes have, or they would get all its pods.
func (c *cluster) imageLocality(d *demand, state *nodeState) float64 {
	if len(state.images) == 0 || len(c.order) == 0 {
		return 0
	}
	containers := d.pod.Spec.Containers
	var sum float64
	for i := range containers {
		if size, ok := state.images[containers[i].Image]; ok {
			sum += float64(size) * float64(c.imageNodes[containers[i].Image]) / float64(len(c.order))
		}
	}
	ceiling := float64(largeImage * len(containers))
	sum = min(max(sum, smallImage), ceiling)
	return maxScore * (sum - smallImage) / (ceiling - smallImage)
}
