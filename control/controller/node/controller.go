// Package node looks after Node objects: it gives every node its pod range, notices when an agent falls silent, mirrors a node's
// conditions as taints, and moves pods off a node whose taints they do not tolerate.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/control/controller/podstate"
	"github.com/skep-io/skep/control/controller/queue"
)

const (
	workers = 4
	// byNode is the index of pods by the node that they are bound to.
	byNode = "skep.io/node"
	// Prefix lengths of a node's pod range: 254 pods, and the usual size in IPv6.
	nodeBits4, nodeBits6 = 24, 64
)

// Config is what the controller needs to know of the cluster.
type Config struct {
	// PodCIDRs are the cluster's pod ranges, one a family, the primary one first; every node gets a /24 (IPv4) and a /64 (IPv6).
	PodCIDRs []netip.Prefix
	// GracePeriod is how long an agent may be silent before its node counts as unreachable.
	GracePeriod time.Duration
}

// Controller is the Node loop. It has two queues: nodes by name, and pods that may have to leave theirs.
type Controller struct {
	client    kubernetes.Interface
	config    Config
	ranges    []*ranges // in the order of the config's PodCIDRs
	nodes     corelisters.NodeLister
	leases    coordinationlisters.LeaseLister
	pods      corelisters.PodLister
	podIndex  cache.Indexer
	recorder  record.EventRecorder
	logger    *slog.Logger
	queue     *queue.Queue
	evictions *queue.Queue
	synced    []cache.DoneChecker
	// started is when this process began to look: a lease that ran out while nobody could renew it (the API server was down, too) gets
	// one more grace period.
	started time.Time
}

// New registers the loop with the informers of Nodes, Leases and Pods. It must be called before they start.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, config Config, recorder record.EventRecorder, logger *slog.Logger) (*Controller, error) {
	var all []*ranges
	for _, cluster := range config.PodCIDRs {
		bits := nodeBits4
		if cluster.Addr().Is6() {
			bits = nodeBits6
		}
		r, err := newRanges(cluster, max(bits, cluster.Bits()))
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	nodes, leases, pods := factory.Core().V1().Nodes(), factory.Coordination().V1().Leases(), factory.Core().V1().Pods()
	c := &Controller{
		client: client, config: config, ranges: all, recorder: recorder, logger: logger,
		nodes: nodes.Lister(), leases: leases.Lister(), pods: pods.Lister(), podIndex: pods.Informer().GetIndexer(),
		started: time.Now(),
	}
	c.queue = queue.New("node", c.sync, logger)
	c.evictions = queue.New("taint-eviction", c.syncEviction, logger)
	if err := AddIndex(pods.Informer()); err != nil {
		return nil, err
	}
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		nodes.Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc:    c.nodeAdded,
			UpdateFunc: func(_, node any) { c.queue.AddObject(node) },
			DeleteFunc: c.nodeDeleted,
		},
		// A renewal needs no work: the timer of the last one looks at the lease again. Only the first one wakes.
		leases.Informer(): cache.ResourceEventHandlerFuncs{AddFunc: c.leaseAdded},
		pods.Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc:    func(pod any) { c.podBound(nil, pod.(*corev1.Pod)) },
			UpdateFunc: func(before, after any) { c.podBound(before.(*corev1.Pod), after.(*corev1.Pod)) },
		},
	} {
		events, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, err
		}
		c.synced = append(c.synced, events.HasSyncedChecker())
	}
	return c, nil
}

// AddIndex gives the pod informer the index of pods by node. It must be called before the informer starts; again is harmless.
func AddIndex(informer cache.SharedIndexInformer) error {
	if _, done := informer.GetIndexer().GetIndexers()[byNode]; done {
		return nil
	}
	return informer.AddIndexers(cache.Indexers{byNode: func(obj any) ([]string, error) {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			return []string{pod.Spec.NodeName}, nil
		}
		return nil, nil
	}})
}

// Run handles nodes until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	var group sync.WaitGroup
	// All ranges in use are known (nodeAdded) before the first one is given away: both queues wait for the informers' handlers.
	group.Go(func() { c.queue.Run(ctx, workers, c.synced...) })
	group.Go(func() { c.evictions.Run(ctx, workers, c.synced...) })
	group.Wait()
}

func (c *Controller) nodeAdded(obj any) {
	node := obj.(*corev1.Node)
	c.hold(node)
	c.queue.AddObject(node)
}

func (c *Controller) hold(node *corev1.Node) {
	for _, podCIDR := range node.Spec.PodCIDRs {
		prefix, err := netip.ParsePrefix(podCIDR)
		if err != nil {
			continue
		}
		for _, r := range c.ranges {
			if !r.cluster.Overlaps(prefix) {
				continue
			}
			if other := r.hold(node.Name, prefix.Masked()); other != "" {
				c.logger.Error("two nodes have the same pod range", "range", podCIDR, "nodes", []string{other, node.Name})
			}
		}
	}
}

func (c *Controller) nodeDeleted(obj any) {
	if node, ok := queue.Object[*corev1.Node](obj); ok {
		for _, r := range c.ranges {
			r.release(node.Name)
		}
	}
}

func (c *Controller) leaseAdded(obj any) {
	if lease := obj.(*coordinationv1.Lease); lease.Namespace == corev1.NamespaceNodeLease {
		c.queue.Add(lease.Name)
	}
}

func (c *Controller) podBound(before, after *corev1.Pod) {
	if after.Spec.NodeName == "" || after.DeletionTimestamp != nil {
		return
	}
	fresh := before == nil || before.Spec.NodeName == "" || len(before.Spec.Tolerations) != len(after.Spec.Tolerations)
	if node, err := c.nodes.Get(after.Spec.NodeName); fresh && err == nil && hasNoExecute(node.Spec.Taints) {
		c.evictions.AddObject(after)
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	stored, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if stored.DeletionTimestamp != nil {
		return nil
	}
	if stored.Spec.PodCIDR == "" {
		return c.assign(ctx, stored) // the event of the patch comes back here for the rest
	}
	node, err := c.checkLife(ctx, stored)
	if err != nil {
		return err
	}
	if err := c.setTaints(ctx, node); err != nil {
		return err
	}
	return c.syncPods(ctx, node)
}

// assign gives the node its pod ranges, which it keeps for life. A failed patch leaves them held for the next try.
func (c *Controller) assign(ctx context.Context, node *corev1.Node) error {
	var prefixes []string
	for _, r := range c.ranges {
		prefix, err := r.allocate(node.Name)
		if err != nil {
			c.recorder.Event(node, corev1.EventTypeNormal, "CIDRNotAvailable", fmt.Sprintf("Node %s status is now: CIDRNotAvailable", node.Name))
			return fmt.Errorf("pod range of node %s: %w", node.Name, err)
		}
		prefixes = append(prefixes, prefix.String())
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": prefixes[0], "podCIDRs": prefixes},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// checkLife makes a silent node's conditions Unknown, or comes back when its grace period would be over. It returns the node as stored.
func (c *Controller) checkLife(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	var renewed *metav1.MicroTime
	if lease, err := c.leases.Leases(corev1.NamespaceNodeLease).Get(node.Name); err == nil {
		renewed = lease.Spec.RenewTime
	}
	last := heard(node, renewed)
	if c.started.After(last) {
		last = c.started
	}
	if left := c.config.GracePeriod - time.Since(last); left > 0 {
		c.queue.AddAfter(node.Name, left+time.Millisecond)
		return node, nil
	}
	// Until the agent speaks again its node's own events will wake us: it reports its status when it is back.
	c.queue.AddAfter(node.Name, c.config.GracePeriod)
	conditions := silent(node, metav1.Now())
	if slices.Equal(conditions, node.Status.Conditions) {
		return node, nil
	}
	c.logger.Warn("node is silent", "node", node.Name, "last", last)
	updated := *node
	updated.Status.Conditions = conditions
	return c.client.CoreV1().Nodes().UpdateStatus(ctx, &updated, metav1.UpdateOptions{})
}

func (c *Controller) setTaints(ctx context.Context, node *corev1.Node) error {
	wanted := taints(node, metav1.Now())
	if apiequality.Semantic.DeepEqual(wanted, node.Spec.Taints) || len(wanted) == 0 && len(node.Spec.Taints) == 0 {
		return nil
	}
	updated := *node
	updated.Spec.Taints = wanted
	_, err := c.client.CoreV1().Nodes().Update(ctx, &updated, metav1.UpdateOptions{})
	return err
}

// syncPods tells the pods of a node that is not ready: their Ready condition becomes false, which takes them out of every Service, and
// the taints may evict them.
func (c *Controller) syncPods(ctx context.Context, node *corev1.Node) error {
	ready := nodeCondition(node, corev1.NodeReady)
	dead := ready != nil && ready.Status != corev1.ConditionTrue
	tainted := hasNoExecute(node.Spec.Taints)
	if !dead && !tainted {
		return nil
	}
	objects, err := c.podIndex.ByIndex(byNode, node.Name)
	if err != nil {
		return err
	}
	var failures []error
	for _, obj := range objects {
		pod := obj.(*corev1.Pod)
		if tainted {
			c.evictions.AddObject(pod)
		}
		if dead && podstate.Ready(pod) {
			c.recorder.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
			failures = append(failures, c.patchCondition(ctx, pod, corev1.PodCondition{
				Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now(),
			}))
		}
	}
	return errors.Join(failures...)
}

func (c *Controller) markDisrupted(ctx context.Context, pod *corev1.Pod) error {
	return c.patchCondition(ctx, pod, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager",
		Message: "Taint manager: deleting due to NoExecute taint", LastTransitionTime: metav1.Now(),
	})
}

// patchCondition merges one condition into the pod's status; the UID makes it fail on a namesake.
func (c *Controller) patchCondition(ctx context.Context, pod *corev1.Pod, condition corev1.PodCondition) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{condition}},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
