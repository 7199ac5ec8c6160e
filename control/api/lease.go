package api

import (
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func leaseResource() *Resource {
	return &Resource{
		GroupVersion:        coordinationv1.SchemeGroupVersion,
		Kind:                "Lease",
		Name:                "leases",
		Singular:            "lease",
		Namespaced:          true,
		New:                 func() runtime.Object { return &coordinationv1.Lease{} },
		NewList:             func() runtime.Object { return &coordinationv1.LeaseList{} },
		AllowCreateOnUpdate: true,
		ValidateName:        validation.NameIsDNSSubdomain,
		Validate:            one(validateLease),
		ValidateUpdate:      two(func(l, _ *coordinationv1.Lease) field.ErrorList { return validateLease(l) }),
		Columns:             leaseColumns(),
		Cells:               one(leaseCells),
	}
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	spec, path := &l.Spec, field.NewPath("spec")
	if d := spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), d, "must be greater than 0"))
	}
	if t := spec.LeaseTransitions; t != nil && *t < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), t, "must be greater than or equal to 0"))
	}
	if spec.Strategy != nil {
		errs = append(errs, checkLeaseStrategy(path.Child("strategy").Child("strategy"), *spec.Strategy)...)
	}
	if spec.PreferredHolder != nil && *spec.PreferredHolder != "" && (spec.Strategy == nil || *spec.Strategy == "") {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}

// checkLeaseStrategy lets a strategy be one of Kubernetes or, with a domain, of somebody else.
func checkLeaseStrategy(path *field.Path, strategy coordinationv1.CoordinatedLeaseStrategy) field.ErrorList {
	if !strings.Contains(string(strategy), "/") {
		return checkSet(path, strategy, coordinationv1.OldestEmulationVersion)
	}
	return invalid(path, strategy, utilvalidation.IsQualifiedName(string(strategy)))
}
