package api

import (
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/control/api/podspec"
)

func deploymentResource() *Resource {
	return &Resource{
		GroupVersion:             appsv1.SchemeGroupVersion,
		Kind:                     "Deployment",
		Name:                     "deployments",
		Singular:                 "deployment",
		ShortNames:               []string{"deploy"},
		Categories:               []string{"all"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &appsv1.Deployment{} },
		NewList:                  func() runtime.Object { return &appsv1.DeploymentList{} },
		HasStatus:                true,
		HasScale:                 true,
		AllowUnconditionalUpdate: true,
		Default:                  set(defaultDeployment),
		ValidateName:             validation.NameIsDNSSubdomain,
		PrepareForCreate: set(func(d *appsv1.Deployment) {
			d.Status = appsv1.DeploymentStatus{}
			d.Generation = 1
		}),
		PrepareForUpdate: setFrom(prepareDeployment),
		PrepareForStatusUpdate: setFrom(func(d, old *appsv1.Deployment) {
			d.Spec = old.Spec
			d.Labels = old.Labels
		}),
		Validate: one(validateDeployment),
		ValidateUpdate: two(func(d, old *appsv1.Deployment) field.ErrorList {
			return append(validateDeployment(d), checkImmutable(field.NewPath("spec", "selector"), d.Spec.Selector, old.Spec.Selector)...)
		}),
		ValidateStatusUpdate: two(validateDeploymentStatus),
		Warnings:             one(func(d *appsv1.Deployment) []string { return podNameWarnings(d.Name) }),
		Columns:              deploymentColumns(),
		Cells:                one(deploymentCells),
	}
}

func defaultDeployment(d *appsv1.Deployment) {
	podspec.SetDefaults(&d.Spec.Template.Spec)
	fill(&d.Spec.Replicas, 1)
	fill(&d.Spec.RevisionHistoryLimit, 10)
	fill(&d.Spec.ProgressDeadlineSeconds, 600)
	s := &d.Spec.Strategy
	if s.Type == "" {
		s.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return
	}
	if s.RollingUpdate == nil {
		s.RollingUpdate = &appsv1.RollingUpdateDeployment{}
	}
	fill(&s.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
	fill(&s.RollingUpdate.MaxSurge, intstr.FromString("25%"))
}

// fill sets a field that the writer left out.
func fill[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// prepareDeployment counts changes of the spec, and of annotations, since those are copied to the replica sets.
func prepareDeployment(d, old *appsv1.Deployment) {
	d.Status = old.Status
	if !equality.Semantic.DeepEqual(d.Spec, old.Spec) || !equality.Semantic.DeepEqual(d.Annotations, old.Annotations) {
		d.Generation = old.Generation + 1
	}
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	spec, path := &d.Spec, field.NewPath("spec")
	errs := checkNonNegative(path.Child("replicas"), int64(desired(spec.Replicas)))
	errs = append(errs, validateSelected(spec.Selector, &spec.Template, path)...)
	errs = append(errs, validateDeploymentStrategy(&spec.Strategy, path.Child("strategy"))...)
	errs = append(errs, checkNonNegative(path.Child("minReadySeconds"), int64(spec.MinReadySeconds))...)
	errs = append(errs, checkOptionalCount(path.Child("revisionHistoryLimit"), spec.RevisionHistoryLimit)...)
	if deadline := spec.ProgressDeadlineSeconds; deadline != nil {
		errs = append(errs, checkOptionalCount(path.Child("progressDeadlineSeconds"), deadline)...)
		if *deadline <= spec.MinReadySeconds {
			errs = append(errs, field.Invalid(path.Child("progressDeadlineSeconds"), *deadline, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateDeploymentStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(path.Child("rollingUpdate"), "this should be defaulted and never be nil")}
		}
		return validateRollingUpdate(s.RollingUpdate, path.Child("rollingUpdate"))
	}
	return field.ErrorList{field.NotSupported(path, s, []string{
		string(appsv1.RecreateDeploymentStrategyType), string(appsv1.RollingUpdateDeploymentStrategyType),
	})}
}

func validateRollingUpdate(u *appsv1.RollingUpdateDeployment, path *field.Path) field.ErrorList {
	unavailable, surge := ptr.Deref(u.MaxUnavailable, intstr.IntOrString{}), ptr.Deref(u.MaxSurge, intstr.IntOrString{})
	at := path.Child("maxUnavailable")
	errs := checkAmount(at, unavailable)
	errs = append(errs, checkAmount(path.Child("maxSurge"), surge)...)
	missing, percent := amount(unavailable)
	if extra, _ := amount(surge); missing == 0 && extra == 0 {
		errs = append(errs, field.Invalid(at, unavailable, "may not be 0 when `maxSurge` is 0"))
	}
	if percent && missing > 100 {
		errs = append(errs, field.Invalid(at, unavailable, "must not be greater than 100%"))
	}
	return errs
}

// checkAmount checks a number of pods or a share of them.
func checkAmount(path *field.Path, v intstr.IntOrString) field.ErrorList {
	if v.Type == intstr.String {
		return invalid(path, v, utilvalidation.IsValidPercent(v.StrVal))
	}
	return checkNonNegative(path, int64(v.IntValue()))
}

// amount is the number, which is a percentage or not.
func amount(v intstr.IntOrString) (n int, percent bool) {
	if v.Type == intstr.String && len(utilvalidation.IsValidPercent(v.StrVal)) == 0 {
		n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
		return n, err == nil
	}
	return v.IntValue(), false
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	s, path := &d.Status, field.NewPath("status")
	errs := checkNonNegative(path.Child("observedGeneration"), s.ObservedGeneration)
	errs = append(errs, validateCounts(s.Replicas, []count{
		{"updatedReplicas", s.UpdatedReplicas},
		{"readyReplicas", s.ReadyReplicas},
		{"availableReplicas", s.AvailableReplicas},
	}, s.ReadyReplicas, s.AvailableReplicas)...)
	errs = append(errs, checkNonNegative(path.Child("unavailableReplicas"), int64(s.UnavailableReplicas))...)
	errs = append(errs, checkOptionalCount(path.Child("terminatingReplicas"), s.TerminatingReplicas)...)
	errs = append(errs, checkOptionalCount(path.Child("collisionCount"), s.CollisionCount)...)
	if before := old.Status.CollisionCount; before != nil && (s.CollisionCount == nil || *s.CollisionCount < *before) {
		errs = append(errs, field.Invalid(path.Child("collisionCount"), desired(s.CollisionCount), "cannot be decremented"))
	}
	return errs
}
