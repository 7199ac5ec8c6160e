package api

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/control/api/podspec"
)

func replicaSetResource() *Resource {
	return &Resource{
		GroupVersion:             appsv1.SchemeGroupVersion,
		Kind:                     "ReplicaSet",
		Name:                     "replicasets",
		Singular:                 "replicaset",
		ShortNames:               []string{"rs"},
		Categories:               []string{"all"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &appsv1.ReplicaSet{} },
		NewList:                  func() runtime.Object { return &appsv1.ReplicaSetList{} },
		HasStatus:                true,
		HasScale:                 true,
		AllowUnconditionalUpdate: true,
		Default: set(func(rs *appsv1.ReplicaSet) {
			podspec.SetDefaults(&rs.Spec.Template.Spec)
			fill(&rs.Spec.Replicas, 1)
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		PrepareForCreate: set(func(rs *appsv1.ReplicaSet) {
			rs.Status = appsv1.ReplicaSetStatus{}
			rs.Generation = 1
		}),
		PrepareForUpdate: setFrom(func(rs, old *appsv1.ReplicaSet) {
			rs.Status = old.Status
			if !equality.Semantic.DeepEqual(rs.Spec, old.Spec) {
				rs.Generation = old.Generation + 1
			}
		}),
		PrepareForStatusUpdate: setFrom(func(rs, old *appsv1.ReplicaSet) { rs.Spec = old.Spec }),
		Validate:               one(validateReplicaSet),
		ValidateUpdate: two(func(rs, old *appsv1.ReplicaSet) field.ErrorList {
			return append(validateReplicaSet(rs), checkImmutable(field.NewPath("spec", "selector"), rs.Spec.Selector, old.Spec.Selector)...)
		}),
		ValidateStatusUpdate: two(validateReplicaSetStatus),
		Warnings:             one(func(rs *appsv1.ReplicaSet) []string { return podNameWarnings(rs.Name) }),
		SelectableFields: one(func(rs *appsv1.ReplicaSet) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(rs.Status.Replicas))}
		}),
		FieldAliases: map[string]string{"status.replicas": ""}, // stored watches know it, clients may not ask for it
		Columns:      replicaSetColumns(),
		Cells:        one(replicaSetCells),
	}
}

func validateReplicaSet(rs *appsv1.ReplicaSet) field.ErrorList {
	spec, path := &rs.Spec, field.NewPath("spec")
	errs := checkNonNegative(path.Child("replicas"), int64(desired(spec.Replicas)))
	errs = append(errs, checkNonNegative(path.Child("minReadySeconds"), int64(spec.MinReadySeconds))...)
	return append(errs, validateSelected(spec.Selector, &spec.Template, path)...)
}

func validateReplicaSetStatus(rs, _ *appsv1.ReplicaSet) field.ErrorList {
	s, path := &rs.Status, field.NewPath("status")
	errs := validateCounts(s.Replicas, []count{
		{"fullyLabeledReplicas", s.FullyLabeledReplicas},
		{"readyReplicas", s.ReadyReplicas},
		{"availableReplicas", s.AvailableReplicas},
	}, s.ReadyReplicas, s.AvailableReplicas)
	errs = append(errs, checkNonNegative(path.Child("observedGeneration"), s.ObservedGeneration)...)
	return append(errs, checkOptionalCount(path.Child("terminatingReplicas"), s.TerminatingReplicas)...)
}
