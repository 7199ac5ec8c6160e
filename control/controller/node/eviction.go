package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// evictAt says when a pod has to leave a node with these taints: never, or at a time. A pod stays as long as the shortest of the
// tolerations that it needs, counted from the latest of the taints' times; a taint that it does not tolerate moves it at once.
func evictAt(taints []corev1.Taint, tolerations []corev1.Toleration, now time.Time) (at time.Time, leave bool) {
	for i := range taints {
		taint := &taints[i]
		if taint.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		stay, tolerated := tolerance(taint, tolerations)
		if !tolerated {
			return now, true
		}
		if stay < 0 {
			continue
		}
		from := now
		if taint.TimeAdded != nil {
			from = taint.TimeAdded.Time
		}
		if end := from.Add(stay); !leave || end.Before(at) {
			at, leave = end, true
		}
	}
	return at, leave
}

// tolerance is how long the pod bears the taint: negative means for ever.
func tolerance(taint *corev1.Taint, tolerations []corev1.Toleration) (stay time.Duration, tolerated bool) {
	stay = -1
	for i := range tolerations {
		if !tolerates(&tolerations[i], taint) {
			continue
		}
		tolerated = true
		if seconds := tolerations[i].TolerationSeconds; seconds != nil {
			if bound := time.Duration(max(0, *seconds)) * time.Second; stay < 0 || bound < stay {
				stay = bound
			}
		}
	}
	return stay, tolerated
}

func tolerates(toleration *corev1.Toleration, taint *corev1.Taint) bool {
	if toleration.Effect != "" && toleration.Effect != taint.Effect || toleration.Key != "" && toleration.Key != taint.Key {
		return false
	}
	switch toleration.Operator {
	case "", corev1.TolerationOpEqual:
		return toleration.Value == taint.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}

func hasNoExecute(taints []corev1.Taint) bool {
	for i := range taints {
		if taints[i].Effect == corev1.TaintEffectNoExecute {
			return true
		}
	}
	return false
}

// syncEviction deletes a pod whose node it no longer tolerates, or comes back when its time is over.
func (c *Controller) syncEviction(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" {
		return nil
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	now := time.Now()
	at, leave := evictAt(node.Spec.Taints, pod.Spec.Tolerations, now)
	if !leave {
		return nil
	}
	if at.After(now) {
		c.evictions.AddAfter(key, at.Sub(now))
		return nil
	}
	return c.evict(ctx, pod)
}

func (c *Controller) evict(ctx context.Context, pod *corev1.Pod) error {
	c.recorder.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
	if err := c.markDisrupted(ctx, pod); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("mark pod %s/%s as disrupted: %w", pod.Namespace, pod.Name, err)
	}
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // another pod of that name has a key of its own
	}
	return err
}
