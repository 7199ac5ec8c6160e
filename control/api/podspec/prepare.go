package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// PrepareForCreate drops the status that a writer may not set and sets what the server owns.
func PrepareForCreate(pod *corev1.Pod) {
	pod.Generation = 1
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: QOSClass(pod)}
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type:    corev1.PodScheduled,
			Status:  corev1.ConditionFalse,
			Reason:  corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
}

// PrepareForUpdate keeps the status of old, and counts a new generation when the spec changed.
func PrepareForUpdate(pod, old *corev1.Pod) {
	pod.Status = *old.Status.DeepCopy()
	pod.Generation = old.Generation
	if !equality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		pod.Generation++
	}
}

// PrepareForStatusUpdate keeps all of old that a write to the status may not change. As upstream, labels, annotations and
// finalizers are not kept.
func PrepareForStatusUpdate(pod, old *corev1.Pod) {
	stored := old.DeepCopy()
	pod.Spec = stored.Spec
	// A node agent that works from an older copy must not take back a deletion or an owner.
	pod.DeletionTimestamp = nil
	pod.DeletionGracePeriodSeconds = stored.DeletionGracePeriodSeconds
	if stored.DeletionTimestamp != nil {
		pod.DeletionTimestamp = stored.DeletionTimestamp
	}
	pod.OwnerReferences = stored.OwnerReferences
	pod.Generation = stored.Generation
	if pod.Status.QOSClass == "" {
		pod.Status.QOSClass = stored.Status.QOSClass
	}
	if pod.Status.ObservedGeneration == 0 {
		pod.Status.ObservedGeneration = stored.Status.ObservedGeneration
	}
}
