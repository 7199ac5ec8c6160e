package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// nodeState is a node with the sums over its pods. The sums are kept by the events of single pods: nothing ever counts all pods.
type nodeState struct {
	node        *corev1.Node // nil when pods are known before their node
	name        string
	allocatable amount
	requested   amount
	usage       amount
	ports       map[hostPort]int
	owners      map[types.UID]int
	images      map[string]int64 // bytes by name
	place       int              // in cluster.order
}

// placement is a pod on a node, bound or about to be.
type placement struct {
	demand *demand
	node   string
}

// cluster is what the scheduler knows of nodes and pods. It is not safe for concurrent use.
type cluster struct {
	nodes map[string]*nodeState
	// order is every node that exists, for a walk that starts somewhere else each time.
	order []*nodeState
	pods  map[types.UID]placement
	peers *peerIndex
	// imageNodes counts on how many nodes an image is.
	imageNodes map[string]int
}

func newCluster(namespaceLabels func(namespace string) map[string]string) *cluster {
	return &cluster{
		nodes:      map[string]*nodeState{},
		pods:       map[types.UID]placement{},
		peers:      newPeerIndex(namespaceLabels),
		imageNodes: map[string]int{},
	}
}

func (c *cluster) state(name string) *nodeState {
	state := c.nodes[name]
	if state == nil {
		state = &nodeState{name: name, ports: map[hostPort]int{}, owners: map[types.UID]int{}, place: -1}
		c.nodes[name] = state
	}
	return state
}

// setNode adds or replaces a node and returns the filters that may now decide differently.
func (c *cluster) setNode(node *corev1.Node) filterSet {
	state := c.state(node.Name)
	old := state.node
	state.node = node
	state.allocatable = amountOf(node.Status.Allocatable)
	if old == nil || !slices.EqualFunc(old.Status.Images, node.Status.Images, sameImage) {
		c.setImages(state, node.Status.Images)
	}
	if state.place < 0 {
		state.place = len(c.order)
		c.order = append(c.order, state)
	}
	return nodeChange(old, node)
}

func sameImage(a, b corev1.ContainerImage) bool {
	return a.SizeBytes == b.SizeBytes && slices.Equal(a.Names, b.Names)
}

func (c *cluster) setImages(state *nodeState, images []corev1.ContainerImage) {
	for name := range state.images {
		if c.imageNodes[name]--; c.imageNodes[name] == 0 {
			delete(c.imageNodes, name)
		}
	}
	state.images = make(map[string]int64, len(images))
	for _, image := range images {
		for _, name := range image.Names {
			if _, twice := state.images[name]; !twice {
				c.imageNodes[name]++
			}
			state.images[name] = image.SizeBytes
		}
	}
}

// removeNode forgets the node; its pods stay known until their own events.
func (c *cluster) removeNode(name string) {
	state := c.nodes[name]
	if state == nil || state.node == nil {
		return
	}
	last := c.order[len(c.order)-1]
	c.order[state.place] = last
	last.place = state.place
	c.order = c.order[:len(c.order)-1]
	c.setImages(state, nil)
	state.node, state.place = nil, -1
	c.drop(state)
}

// drop forgets a state that stands for nothing any more.
func (c *cluster) drop(state *nodeState) {
	if state.node == nil && state.requested.pods == 0 {
		delete(c.nodes, state.name)
	}
}

// place puts the pod on the node; a pod that is known already moves. It is how both an assumption and the event that confirms it count.
func (c *cluster) place(d *demand, node string) {
	c.remove(d.pod.UID)
	c.pods[d.pod.UID] = placement{demand: d, node: node}
	c.account(c.state(node), d, 1)
}

// refresh lets a placed pod's former object go in favour of its new one, which must count the same. It returns false when the pod is not
// placed.
func (c *cluster) refresh(pod *corev1.Pod) bool {
	p, known := c.pods[pod.UID]
	if !known {
		return false
	}
	// A copy, since a binding in flight reads the old one.
	d := *p.demand
	d.pod = pod
	c.pods[pod.UID] = placement{demand: &d, node: p.node}
	return true
}

// remove takes the pod off its node and says whether it was on one.
func (c *cluster) remove(uid types.UID) bool {
	p, known := c.pods[uid]
	if !known {
		return false
	}
	delete(c.pods, uid)
	state := c.nodes[p.node]
	c.account(state, p.demand, -1)
	c.drop(state)
	return true
}

func (c *cluster) account(state *nodeState, d *demand, sign int) {
	state.requested.add(&d.requests, int64(sign))
	state.usage.add(&d.usage, int64(sign))
	for _, port := range d.ports {
		bump(state.ports, port, sign)
	}
	if d.owner != "" {
		bump(state.owners, d.owner, sign)
	}
	c.peers.account(d, state.name, sign)
}

// bump changes a count and leaves no zero behind.
func bump[K comparable](counts map[K]int, key K, by int) {
	if counts[key] += by; counts[key] == 0 {
		delete(counts, key)
	}
}
