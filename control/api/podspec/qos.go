package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// QOSClass is the class that the requests and limits of pod earn: Guaranteed when every container limits CPU and memory and
// requests just that, BestEffort when none asks for either, else Burstable.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	var all []*corev1.ResourceRequirements
	if r := pod.Spec.Resources; r != nil && asks(r) {
		all = append(all, r)
	} else {
		for _, c := range runContainers(&pod.Spec) {
			all = append(all, &c.Resources)
		}
	}
	asked, guaranteed := false, true
	for _, r := range all {
		asked = asked || asks(r)
		guaranteed = guaranteed && exact(r, corev1.ResourceCPU) && exact(r, corev1.ResourceMemory)
	}
	switch {
	case !asked:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

func asks(r *corev1.ResourceRequirements) bool {
	return positive(r.Requests.Cpu()) || positive(r.Requests.Memory()) || positive(r.Limits.Cpu()) || positive(r.Limits.Memory())
}

func positive(q *resource.Quantity) bool { return q.Sign() > 0 }

func exact(r *corev1.ResourceRequirements, name corev1.ResourceName) bool {
	limit, request := r.Limits[name], r.Requests[name]
	return limit.Sign() > 0 && (request.IsZero() || request.Cmp(limit) == 0)
}
