package podspec

import (
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const updatable = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// ValidatePodUpdate checks a changed pod: few fields of a spec may change, see updatable; a pod behind a scheduling gate may
// lose gates and gain labels in its node selector.
func ValidatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	errs := validatePod(pod)
	path := field.NewPath("spec")
	if len(pod.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(path.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(path.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	errs = append(errs, validateDeadlineUpdate(pod.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds, path.Child("activeDeadlineSeconds"))...)
	if !keepsTolerations(pod.Spec.Tolerations, old.Spec.Tolerations) {
		errs = append(errs, field.Forbidden(path.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds"))
	}
	errs = append(errs, validateGateRemoval(pod.Spec.SchedulingGates, old.Spec.SchedulingGates, path.Child("schedulingGates"))...)
	rest := withoutUpdatable(&pod.Spec, &old.Spec)
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, validateNarrowing(rest, &old.Spec, path)...)
	}
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		errs = append(errs, field.Forbidden(path, fmt.Sprintf("pod updates may not change fields other than %s\n%v", updatable, diff.Diff(old.Spec, *rest))))
	}
	return errs
}

// withoutUpdatable returns a copy of spec in which all that may change is as in old.
func withoutUpdatable(spec, old *corev1.PodSpec) *corev1.PodSpec {
	rest, was := spec.DeepCopy(), old.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = was.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = was.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = was.ActiveDeadlineSeconds
	rest.SchedulingGates = was.SchedulingGates
	rest.Tolerations = was.Tolerations
	if g, o := rest.TerminationGracePeriodSeconds, was.TerminationGracePeriodSeconds; g != nil && o != nil && *g == 1 && *o < 0 {
		rest.TerminationGracePeriodSeconds = o
	}
	return rest
}

// validateNarrowing checks that a gated pod's node selector only gained labels, and sets it back in rest.
func validateNarrowing(rest, old *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for k, v := range old.NodeSelector {
		if now, ok := rest.NodeSelector[k]; !ok || now != v {
			errs = append(errs, field.Invalid(path.Child("nodeSelector"), rest.NodeSelector, "only additions are allowed (no mutations or deletions)"))
			break
		}
	}
	rest.NodeSelector = old.NodeSelector
	return errs
}

func validateDeadlineUpdate(deadline, old *int64, path *field.Path) field.ErrorList {
	switch {
	case deadline == nil && old == nil:
	case deadline == nil:
		return field.ErrorList{field.Invalid(path, deadline, "must not update from a positive integer to nil value")}
	case *deadline < 0 || *deadline > math.MaxInt32:
		return field.ErrorList{field.Invalid(path, *deadline, validation.InclusiveRangeError(0, math.MaxInt32))}
	case old != nil && *old < *deadline:
		return field.ErrorList{field.Invalid(path, *deadline, "must be less than or equal to previous value")}
	}
	return nil
}

func keepsTolerations(tolerations, old []corev1.Toleration) bool {
	for _, o := range old {
		if !slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool {
			t.TolerationSeconds = o.TolerationSeconds
			return t == o
		}) {
			return false
		}
	}
	return true
}

func validateGateRemoval(gates, old []corev1.PodSchedulingGate, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, g := range gates {
		if !slices.Contains(old, g) {
			errs = append(errs, field.Forbidden(path.Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name)))
		}
	}
	return errs
}

// ValidatePodStatusUpdate checks a write to the status of a pod.
func ValidatePodStatusUpdate(pod, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	for i, c := range pod.Status.Conditions {
		if strings.Contains(string(c.Type), "/") {
			errs = append(errs, qualifiedName(path.Child("conditions").Index(i).Child("type"), string(c.Type))...)
		}
	}
	if n := pod.Status.NominatedNodeName; n != "" && n != old.Status.NominatedNodeName {
		errs = append(errs, subdomain(path.Child("nominatedNodeName"), n)...)
	}
	if pod.Status.ObservedGeneration < 0 {
		errs = append(errs, field.Invalid(path.Child("observedGeneration"), pod.Status.ObservedGeneration, "must be a non-negative integer"))
	}
	errs = append(errs, apivalidation.ValidateImmutableField(pod.Status.QOSClass, old.Status.QOSClass, path.Child("qosClass"))...)
	seen := sets.New[string]()
	for i, ip := range pod.Status.PodIPs {
		at := path.Child("podIPs").Index(i)
		errs = append(errs, validation.IsValidIPForLegacyField(at, ip.IP, true, nil)...)
		if seen.Has(ip.IP) {
			errs = append(errs, field.Duplicate(at, ip))
		}
		seen.Insert(ip.IP)
	}
	if old.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, validateTransitions(pod.Status.ContainerStatuses, old, path.Child("containerStatuses"))...)
	}
	return errs
}

// validateTransitions checks that no container that ended for good is said to run again.
func validateTransitions(statuses []corev1.ContainerStatus, old *corev1.Pod, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, was := range old.Status.ContainerStatuses {
		ended := was.State.Terminated
		if ended == nil || ended.ExitCode != 0 && old.Spec.RestartPolicy == corev1.RestartPolicyOnFailure {
			continue
		}
		for i, now := range statuses {
			if now.Name == was.Name && now.State.Terminated == nil {
				errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}
