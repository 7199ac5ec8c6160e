// Package podstate answers the questions that several controllers ask about a pod: is it ready, available, active.
package podstate

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Condition returns the pod's condition of that type, or nil. The result points into the pod.
func Condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Ready says whether the pod's Ready condition is true.
func Ready(pod *corev1.Pod) bool {
	condition := Condition(pod, corev1.PodReady)
	return condition != nil && condition.Status == corev1.ConditionTrue
}

// Available says whether the pod has been ready for minReadySeconds. When it is ready but not yet for long enough, wait is the
// time that is left.
func Available(pod *corev1.Pod, minReadySeconds int32, now time.Time) (available bool, wait time.Duration) {
	if !Ready(pod) {
		return false, 0
	}
	if minReadySeconds == 0 {
		return true, 0
	}
	since := Condition(pod, corev1.PodReady).LastTransitionTime
	if since.IsZero() {
		return false, 0
	}
	wait = time.Duration(minReadySeconds)*time.Second - now.Sub(since.Time)
	return wait <= 0, max(0, wait)
}

// Terminal says whether the pod has run to its end, well or not.
func Terminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Active says whether the pod counts as a replica: not ended and not being deleted.
func Active(pod *corev1.Pod) bool {
	return !Terminal(pod) && pod.DeletionTimestamp == nil
}
