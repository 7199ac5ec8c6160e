package api

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/control/api/podspec"
)

// validateSelected checks the selector of a workload and that the pods of its template are those it selects.
func validateSelected(selector *metav1.LabelSelector, template *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("selector")
	if selector == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, at)...)
		if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
			// Upstream names the deployment for replica sets too, and clients match on it.
			errs = append(errs, field.Invalid(at, selector, "empty selector is invalid for deployment"))
		}
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return append(errs, field.Invalid(at, selector, "invalid label selector"))
	}
	return append(errs, validateTemplate(template, s, path.Child("template"))...)
}

func validateTemplate(template *corev1.PodTemplateSpec, selector labels.Selector, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !selector.Empty() && !selector.Matches(labels.Set(template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("metadata", "labels"), template.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, podspec.ValidateTemplate(template, path)...)
	if template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), template.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if template.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported"))
	}
	return errs
}

// podNameWarnings warns of a workload whose name makes pod names that are no host names.
func podNameWarnings(name string) []string {
	messages := utilvalidation.IsDNS1123Label(name)
	if len(messages) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", messages)}
}

// count is a number of a status with its name.
type count struct {
	name  string
	value int32
}

// validateCounts checks that no number of a status is negative and that the parts are not more than the whole.
func validateCounts(whole int32, parts []count, ready, available int32) field.ErrorList {
	path := field.NewPath("status")
	errs := checkNonNegative(path.Child("replicas"), int64(whole))
	for _, p := range parts {
		errs = append(errs, checkNonNegative(path.Child(p.name), int64(p.value))...)
	}
	for _, p := range parts {
		errs = append(errs, checkNotAbove(path.Child(p.name), p.value, whole, "cannot be greater than status.replicas")...)
	}
	return append(errs, checkNotAbove(path.Child("availableReplicas"), available, ready, "cannot be greater than readyReplicas")...)
}

// checkOptionalCount checks a number of a status that may be absent.
func checkOptionalCount(path *field.Path, value *int32) field.ErrorList {
	if value == nil {
		return nil
	}
	return checkNonNegative(path, int64(*value))
}
