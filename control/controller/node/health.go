package node

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// watched are the conditions that a node's agent reports and that turn Unknown when it falls silent.
var watched = []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

func nodeCondition(node *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == kind {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

// silent computes the conditions of a node that was not heard of for too long. An agent that never reported is told apart from one that
// stopped.
func silent(node *corev1.Node, now metav1.Time) []corev1.NodeCondition {
	conditions := slices.Clone(node.Status.Conditions)
	for _, kind := range watched {
		at := slices.IndexFunc(conditions, func(c corev1.NodeCondition) bool { return c.Type == kind })
		switch {
		case at < 0:
			conditions = append(conditions, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated",
				Message: "Kubelet never posted node status.", LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: now,
			})
		case conditions[at].Status != corev1.ConditionUnknown:
			conditions[at].Status = corev1.ConditionUnknown
			conditions[at].Reason = "NodeStatusUnknown"
			conditions[at].Message = "Kubelet stopped posting node status."
			conditions[at].LastTransitionTime = now
		}
	}
	return conditions
}

// pressureTaints are the keys of the NoSchedule taints that a node gets while the condition is true.
var pressureTaints = map[corev1.NodeConditionType]string{
	corev1.NodeMemoryPressure:     corev1.TaintNodeMemoryPressure,
	corev1.NodeDiskPressure:       corev1.TaintNodeDiskPressure,
	corev1.NodePIDPressure:        corev1.TaintNodePIDPressure,
	corev1.NodeNetworkUnavailable: corev1.TaintNodeNetworkUnavailable,
}

// owned says whether the taint is one that this controller manages.
func owned(taint corev1.Taint) bool {
	switch taint.Key {
	case corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable:
		return taint.Effect == corev1.TaintEffectNoSchedule || taint.Effect == corev1.TaintEffectNoExecute
	case corev1.TaintNodeUnschedulable:
		return taint.Effect == corev1.TaintEffectNoSchedule
	}
	for _, key := range pressureTaints {
		if key == taint.Key {
			return taint.Effect == corev1.TaintEffectNoSchedule
		}
	}
	return false
}

// taints computes the taints that a node should have from its conditions: foreign ones stay as they are, and one that stays keeps the
// time from which toleration seconds count.
func taints(node *corev1.Node, now metav1.Time) []corev1.Taint {
	var wanted []corev1.Taint
	if ready := nodeCondition(node, corev1.NodeReady); ready != nil && ready.Status != corev1.ConditionTrue {
		key := corev1.TaintNodeNotReady
		if ready.Status == corev1.ConditionUnknown {
			key = corev1.TaintNodeUnreachable
		}
		wanted = append(wanted, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule}, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
	}
	// In the order of the conditions, so that the result is the same every time.
	for _, c := range node.Status.Conditions {
		if key := pressureTaints[c.Type]; key != "" && c.Status == corev1.ConditionTrue {
			wanted = append(wanted, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
		}
	}
	if node.Spec.Unschedulable {
		wanted = append(wanted, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	var result []corev1.Taint
	for _, taint := range node.Spec.Taints {
		if !owned(taint) {
			result = append(result, taint)
		}
	}
	for _, taint := range wanted {
		same := func(t corev1.Taint) bool { return t.MatchTaint(&taint) }
		if at := slices.IndexFunc(node.Spec.Taints, same); at >= 0 {
			taint = node.Spec.Taints[at]
		} else {
			taint.TimeAdded = &now
		}
		result = append(result, taint)
	}
	return result
}

// heard is the last sign of life: the lease's renewal, else the node's own heartbeat or its creation.
func heard(node *corev1.Node, renewed *metav1.MicroTime) time.Time {
	last := node.CreationTimestamp.Time
	if ready := nodeCondition(node, corev1.NodeReady); ready != nil && ready.LastHeartbeatTime.After(last) {
		last = ready.LastHeartbeatTime.Time
	}
	if renewed != nil && renewed.After(last) {
		last = renewed.Time
	}
	return last
}
