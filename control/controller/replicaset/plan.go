package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/control/controller/podstate"
)

// burst bounds what one sync creates or deletes, so that one large set does not starve the others.
const burst = 500

// change is what a sync does to the pods: create so many, or delete these in this order.
type change struct {
	create int
	remove []*corev1.Pod
}

// plan compares the wanted number with the active pods. related are the active pods of the whole owner family (all ReplicaSets of
// the same Deployment): a node that holds many of them loses one first.
func plan(wanted int32, active, related []*corev1.Pod, now time.Time) change {
	diff := len(active) - int(wanted)
	switch {
	case diff < 0:
		return change{create: min(-diff, burst)}
	case diff > 0:
		return change{remove: victims(active, related, min(diff, burst), now)}
	}
	return change{}
}

func victims(active, related []*corev1.Pod, count int, now time.Time) []*corev1.Pod {
	if count >= len(active) {
		return slices.Clone(active)
	}
	perNode := map[string]int{}
	for _, pod := range related {
		perNode[pod.Spec.NodeName]++
	}
	candidates := make([]candidate, len(active))
	for i, pod := range active {
		candidates[i] = candidate{pod: pod, peers: perNode[pod.Spec.NodeName]}
	}
	rank(candidates, now)
	chosen := make([]*corev1.Pod, count)
	for i := range chosen {
		chosen[i] = candidates[i].pod
	}
	return chosen
}

// newPod is the pod that a set's template asks for, controlled by the set.
func newPod(rs *appsv1.ReplicaSet) *corev1.Pod {
	template := rs.Spec.Template.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    podNamePrefix(rs.Name),
			Namespace:       rs.Namespace,
			Labels:          template.Labels,
			Annotations:     template.Annotations,
			Finalizers:      template.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, kind)},
		},
		Spec: template.Spec,
	}
}

// podNamePrefix leaves the dash out where it would make the name too long to be a pod's.
func podNamePrefix(name string) string {
	const longest = 253
	if len(name) >= longest {
		return name
	}
	return name + "-"
}

// status computes the set's status from its pods. owned are all pods that it controls, failure is the error of this sync, if any.
// wait is the time after which a ready pod becomes available by itself, 0 if there is none.
func status(rs *appsv1.ReplicaSet, owned []*corev1.Pod, diff int, failure error, now metav1.Time) (next appsv1.ReplicaSetStatus, wait time.Duration) {
	next = *rs.Status.DeepCopy()
	next.ObservedGeneration = rs.Generation
	next.Replicas, next.FullyLabeledReplicas, next.ReadyReplicas, next.AvailableReplicas = 0, 0, 0, 0
	var terminating int32
	templateLabels := labels.SelectorFromValidatedSet(rs.Spec.Template.Labels)
	for _, pod := range owned {
		if podstate.Terminal(pod) {
			continue
		}
		if pod.DeletionTimestamp != nil {
			terminating++
			continue
		}
		next.Replicas++
		if templateLabels.Matches(labels.Set(pod.Labels)) {
			next.FullyLabeledReplicas++
		}
		if !podstate.Ready(pod) {
			continue
		}
		next.ReadyReplicas++
		available, left := podstate.Available(pod, rs.Spec.MinReadySeconds, now.Time)
		if available {
			next.AvailableReplicas++
		} else if wait == 0 || left < wait {
			wait = left
		}
	}
	next.TerminatingReplicas = &terminating
	next.Conditions = conditions(next.Conditions, diff, failure, now)
	return next, wait
}

// conditions adds or removes ReplicaFailure. A standing failure keeps its first message and time.
func conditions(current []appsv1.ReplicaSetCondition, diff int, failure error, now metav1.Time) []appsv1.ReplicaSetCondition {
	isFailure := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	if failure == nil {
		return slices.DeleteFunc(current, isFailure)
	}
	if slices.ContainsFunc(current, isFailure) {
		return current
	}
	reason := "FailedCreate"
	if diff > 0 {
		reason = "FailedDelete"
	}
	return append(current, appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
		Reason: reason, Message: failure.Error(), LastTransitionTime: now,
	})
}
