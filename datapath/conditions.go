package datapath

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/util/workqueue"

	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/reconcile"
)

// conditionProgrammed says in a Service's status whether the kernels of all nodes have all of it. A Service that nothing was ever
// wrong with has none. Its message has a line for each node that lacks something, which that node alone writes and takes away: a
// patch names the version of the object that it was made from, so no node overwrites what another one says.
const conditionProgrammed = "skep.dev/Programmed"

const (
	reasonNotProgrammed = "NotProgrammed"
	reasonProgrammed    = "Programmed"
	// conditionLines bounds the message: of further nodes the Service's events tell.
	conditionLines = 20
	// conditionLine bounds what a node says, in bytes.
	conditionLine = 300
)

// conditions keeps this node's part of the condition of Services. It is safe for concurrent use.
type conditions struct {
	nodeName string
	client   kubernetes.Interface
	services corelisters.ServiceLister
	nodes    corelisters.NodeLister
	logger   *slog.Logger
	queue    workqueue.TypedRateLimitingInterface[reconcile.Owner]

	mu    sync.Mutex
	lacks map[reconcile.Owner]string // what this node says; guarded by mu
}

// newConditions returns nil without a client: then no status is written.
func newConditions(cfg Config) *conditions {
	if cfg.Client == nil {
		return nil
	}
	return &conditions{
		nodeName: cfg.NodeName,
		client:   cfg.Client,
		services: cfg.Informers.Core().V1().Services().Lister(),
		nodes:    cfg.Informers.Core().V1().Nodes().Lister(),
		logger:   cfg.Logger,
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Owner](
			retryMin, retryMax)),
		lacks: map[reconcile.Owner]string{},
	}
}

// update says what this node lacks of a Service; empty: nothing.
func (c *conditions) update(owner reconcile.Owner, lacks string) {
	if _, pod := desired.CutPodName(owner.Name); pod || c == nil {
		return // host ports have no Service
	}
	lacks = strings.ReplaceAll(lacks, "\n", "; ")
	c.mu.Lock()
	if lacks == "" {
		delete(c.lacks, owner)
	} else {
		c.lacks[owner] = lacks[:min(len(lacks), conditionLine)]
	}
	c.mu.Unlock()
	if svc, err := c.services.Services(owner.Namespace).Get(owner.Name); err == nil && c.wanted(svc) != nil {
		c.queue.Add(owner)
	}
}

// run writes until ctx ends.
func (c *conditions) run(ctx context.Context) {
	if c == nil {
		return
	}
	defer context.AfterFunc(ctx, c.queue.ShutDown)()
	for {
		owner, shutdown := c.queue.Get()
		if shutdown {
			return
		}
		err := c.write(ctx, owner)
		switch {
		case err == nil, apierrors.IsNotFound(err):
			c.queue.Forget(owner)
		case apierrors.IsForbidden(err): // somebody else's cluster, with rights of an older version
			c.queue.Forget(owner)
			c.logger.Warn("the condition of a Service is not written", "service", owner.Namespace+"/"+owner.Name, "error", err)
		case !errors.Is(err, context.Canceled):
			c.queue.AddRateLimited(owner) // often another node was first: the informer brings what it wrote
		}
		c.queue.Done(owner)
	}
}

func (c *conditions) write(ctx context.Context, owner reconcile.Owner) error {
	svc, err := c.services.Services(owner.Namespace).Get(owner.Name)
	if err != nil {
		return err
	}
	condition := c.wanted(svc)
	if condition == nil {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": svc.ResourceVersion, "uid": svc.UID},
		"status":   map[string]any{"conditions": []metav1.Condition{*condition}},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Services(owner.Namespace).Patch(ctx, owner.Name, types.StrategicMergePatchType, patch,
		metav1.PatchOptions{FieldManager: "skep-network"}, "status")
	return err
}

// wanted is what the condition of a Service should become; nil: it is that already.
func (c *conditions) wanted(svc *corev1.Service) *metav1.Condition {
	c.mu.Lock()
	lacks := c.lacks[reconcile.Owner{Namespace: svc.Namespace, Name: svc.Name}]
	c.mu.Unlock()
	var lines []string
	current := meta.FindStatusCondition(svc.Status.Conditions, conditionProgrammed)
	if current == nil && lacks == "" {
		return nil
	}
	if current != nil && current.Status == metav1.ConditionFalse {
		lines = slices.DeleteFunc(strings.Split(current.Message, "\n"), func(line string) bool { return !c.stands(line) })
	}
	if lacks != "" && len(lines) < conditionLines {
		lines = append(lines, c.prefix(c.nodeName)+lacks)
	}
	slices.Sort(lines) // the order of nodes must not matter
	condition := metav1.Condition{
		Type: conditionProgrammed, Status: metav1.ConditionTrue, Reason: reasonProgrammed, Message: "All nodes have the Service.",
		ObservedGeneration: svc.Generation, LastTransitionTime: metav1.Now(),
	}
	if len(lines) > 0 {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, reasonNotProgrammed, strings.Join(lines, "\n")
	}
	if current != nil && current.Status == condition.Status {
		condition.LastTransitionTime = current.LastTransitionTime
		if current.Message == condition.Message {
			return nil
		}
	}
	return &condition
}

// stands says whether a line of the message is another node's that there is.
func (c *conditions) stands(line string) bool {
	node, _, ok := strings.Cut(strings.TrimPrefix(line, "Node "), ": ")
	if !ok || node == c.nodeName {
		return false
	}
	_, err := c.nodes.Get(node)
	return !apierrors.IsNotFound(err)
}

func (c *conditions) prefix(node string) string { return "Node " + node + ": " }
