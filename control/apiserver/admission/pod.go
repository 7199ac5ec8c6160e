package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// newPod returns the pod of a request that creates one.
func newPod(a admission.Attributes) (*corev1.Pod, bool) {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "" || a.GetOperation() != admission.Create {
		return nil, false
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	return pod, ok
}

// onCreate is the Handles of plugins that look at new objects.
type onCreate struct{}

// Handles implements admission.Interface.
func (onCreate) Handles(op admission.Operation) bool { return op == admission.Create }

// patience is how long a pod stays on a node that is gone, in seconds.
const patience = int64(300)

// tolerations lets pods stay for a while on a node that is not ready or out of reach (upstream's DefaultTolerationSeconds).
type tolerations struct{ onCreate }

// Admit implements admission.MutationInterface.
func (tolerations) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if !tolerates(pod, taint) {
			seconds := patience
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds})
		}
	}
	return nil
}

func tolerates(pod *corev1.Pod, taint string) bool {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}

// systemPriorities are the priority classes that every cluster has.
var systemPriorities = map[string]int32{"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}

// priorities gives a pod the number of its priority class.
type priorities struct{ onCreate }

// Admit implements admission.MutationInterface.
func (priorities) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	priority := int32(0)
	if name := pod.Spec.PriorityClassName; name != "" {
		if priority, ok = systemPriorities[name]; !ok {
			return admission.NewForbidden(a, fmt.Errorf("no PriorityClass with name %s was found", name))
		}
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority != priority {
		return admission.NewForbidden(a, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, priority))
	}
	pod.Spec.Priority = &priority
	if pod.Spec.PreemptionPolicy == nil {
		policy := corev1.PreemptLowerPriority
		pod.Spec.PreemptionPolicy = &policy
	}
	return nil
}
