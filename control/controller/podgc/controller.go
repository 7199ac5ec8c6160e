// Package podgc deletes pods that nobody else will: those of nodes that are gone, those deleted before they had a node, and the oldest
// of the terminated when there are too many.
package podgc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/control/controller/podstate"
	"github.com/skep-io/skep/control/controller/queue"
)

const (
	// sweep is the only key: one look at all pods, soon after events that call for it and not more often than delay.
	sweep = "pods"
	delay = time.Second
	// quarantine is how long a node must be gone before its pods are: an object that was deleted by mistake comes back by then.
	quarantine = 40 * time.Second
)

// Controller is the loop.
type Controller struct {
	client    kubernetes.Interface
	pods      corelisters.PodLister
	nodes     corelisters.NodeLister
	threshold int
	queue     *queue.Queue
	synced    []cache.DoneChecker
	missing   map[string]time.Time // nodes that pods name and that do not exist, since when; only the one worker uses it
}

// New registers the loop with the informers of Pods and Nodes. It must be called before they start. threshold is how many terminated
// pods may stay; 0 or less keeps them all.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, threshold int, logger *slog.Logger) (*Controller, error) {
	core := factory.Core().V1()
	c := &Controller{
		client: client, pods: core.Pods().Lister(), nodes: core.Nodes().Lister(),
		threshold: threshold, missing: map[string]time.Time{},
	}
	c.queue = queue.New("podgc", c.sync, logger)
	later := func(any) { c.queue.AddAfter(sweep, delay) }
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		core.Pods().Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) { c.podChanged(nil, obj.(*corev1.Pod)) },
			UpdateFunc: func(before, after any) {
				c.podChanged(before.(*corev1.Pod), after.(*corev1.Pod))
			},
		},
		core.Nodes().Informer(): cache.ResourceEventHandlerFuncs{DeleteFunc: later},
	} {
		events, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, err
		}
		c.synced = append(c.synced, events.HasSyncedChecker())
	}
	return c, nil
}

// Run sweeps until ctx ends.
func (c *Controller) Run(ctx context.Context) { c.queue.Run(ctx, 1, c.synced...) }

// podChanged wakes the sweep for what it is about: a pod that ended, one deleted without a node, one that names a node not there.
func (c *Controller) podChanged(before, pod *corev1.Pod) {
	ended := podstate.Terminal(pod) && (before == nil || !podstate.Terminal(before))
	unplaced := pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil
	orphaned := false
	if pod.Spec.NodeName != "" && (before == nil || before.Spec.NodeName == "") {
		_, err := c.nodes.Get(pod.Spec.NodeName)
		orphaned = apierrors.IsNotFound(err)
	}
	if ended && c.threshold > 0 || unplaced || orphaned {
		c.queue.AddAfter(sweep, delay)
	}
}

func (c *Controller) sync(ctx context.Context, _ string) error {
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	gone, wait := c.goneNodes(pods, time.Now())
	if wait > 0 {
		c.queue.AddAfter(sweep, wait)
	}
	var failures []error
	for _, pod := range pods {
		switch {
		case gone[pod.Spec.NodeName]:
			failures = append(failures, c.orphan(ctx, pod))
		case pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil:
			failures = append(failures, c.remove(ctx, pod))
		}
	}
	for _, pod := range surplus(pods, c.threshold) {
		failures = append(failures, c.remove(ctx, pod))
	}
	return errors.Join(failures...)
}

// goneNodes are the nodes that pods name and that are out of quarantine. wait is when the next one will be.
func (c *Controller) goneNodes(pods []*corev1.Pod, now time.Time) (gone map[string]bool, wait time.Duration) {
	gone = map[string]bool{}
	seen := map[string]time.Time{}
	for _, pod := range pods {
		name := pod.Spec.NodeName
		if _, known := seen[name]; known || name == "" {
			continue
		}
		if _, err := c.nodes.Get(name); !apierrors.IsNotFound(err) {
			continue
		}
		since, known := c.missing[name]
		if !known {
			since = now
		}
		seen[name] = since
		left := quarantine - now.Sub(since)
		gone[name] = left <= 0
		if left > 0 && (wait == 0 || left < wait) {
			wait = left
		}
	}
	c.missing = seen
	return gone, wait
}

// surplus returns the terminated pods beyond the threshold: evicted ones first, then the oldest.
func surplus(pods []*corev1.Pod, threshold int) []*corev1.Pod {
	if threshold <= 0 {
		return nil
	}
	var ended []*corev1.Pod
	for _, pod := range pods {
		if podstate.Terminal(pod) && pod.DeletionTimestamp == nil {
			ended = append(ended, pod)
		}
	}
	if len(ended) <= threshold {
		return nil
	}
	evicted := func(pod *corev1.Pod) bool {
		return pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == "Evicted"
	}
	slices.SortFunc(ended, func(a, b *corev1.Pod) int {
		if evicted(a) != evicted(b) {
			if evicted(a) {
				return -1
			}
			return 1
		}
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return ended[:len(ended)-threshold]
}

// orphan marks a pod whose node is gone as failed, since nobody is left to say how it ended, and deletes it.
func (c *Controller) orphan(ctx context.Context, pod *corev1.Pod) error {
	if !podstate.Terminal(pod) {
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": pod.UID},
			"status": map[string]any{
				"phase": corev1.PodFailed,
				"conditions": []corev1.PodCondition{{
					Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC",
					Message: "PodGC: node no longer exists", LastTransitionTime: metav1.Now(),
				}},
			},
		})
		if err != nil {
			return err
		}
		_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark pod %s/%s of node %s as failed: %w", pod.Namespace, pod.Name, pod.Spec.NodeName, err)
		}
	}
	return c.remove(ctx, pod)
}

// remove deletes without grace: there is no agent that would end it.
func (c *Controller) remove(ctx context.Context, pod *corev1.Pod) error {
	options := metav1.NewDeleteOptions(0)
	options.Preconditions = metav1.NewUIDPreconditions(string(pod.UID))
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *options)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
