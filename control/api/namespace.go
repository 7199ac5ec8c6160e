package api

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func namespaceResource() *Resource {
	return &Resource{
		GroupVersion:             corev1.SchemeGroupVersion,
		Kind:                     "Namespace",
		Name:                     "namespaces",
		Singular:                 "namespace",
		ShortNames:               []string{"ns"},
		New:                      func() runtime.Object { return &corev1.Namespace{} },
		NewList:                  func() runtime.Object { return &corev1.NamespaceList{} },
		HasStatus:                true,
		AllowUnconditionalUpdate: true,
		Default:                  set(defaultNamespace),
		ValidateName:             validation.ValidateNamespaceName,
		PrepareForCreate:         set(prepareNamespace),
		PrepareForUpdate: setFrom(func(n, old *corev1.Namespace) {
			n.Spec.Finalizers = old.Spec.Finalizers // written through the finalize subresource
			n.Status = old.Status
		}),
		PrepareForStatusUpdate: setFrom(func(n, old *corev1.Namespace) { n.Spec = old.Spec }),
		Validate:               one(validateNamespace),
		ValidateUpdate:         two(func(n, _ *corev1.Namespace) field.ErrorList { return validateNamespace(n) }),
		ValidateStatusUpdate:   two(validateNamespaceStatus),
		SelectableFields: one(func(n *corev1.Namespace) fields.Set {
			return fields.Set{"status.phase": string(n.Status.Phase), "name": n.Name}
		}),
		FieldAliases: map[string]string{"name": ""}, // stored watches know it, clients may not ask for it
		Columns:      namespaceColumns(),
		Cells:        one(namespaceCells),
	}
}

func defaultNamespace(n *corev1.Namespace) {
	labelNamespace(n)
	if n.Status.Phase == "" {
		n.Status.Phase = corev1.NamespaceActive
	}
}

// labelNamespace puts the name into the label that selectors choose namespaces by.
func labelNamespace(n *corev1.Namespace) {
	if n.Name == "" {
		return // it is generated later
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

// prepareNamespace makes a new namespace active, and holds it until its contents are deleted.
func prepareNamespace(n *corev1.Namespace) {
	labelNamespace(n)
	n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
		n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

func validateNamespace(n *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for _, f := range n.Spec.Finalizers {
		errs = append(errs, checkFinalizer(field.NewPath("spec", "finalizers"), string(f))...)
	}
	return errs
}

// ValidateNamespaceFinalizers checks a write to the finalize subresource of a namespace.
func ValidateNamespaceFinalizers(n *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for i, f := range n.Spec.Finalizers {
		errs = append(errs, checkFinalizer(field.NewPath("spec", "finalizers").Index(i), string(f))...)
	}
	return errs
}

func checkFinalizer(path *field.Path, name string) field.ErrorList {
	errs := validation.ValidateFinalizerName(name, path)
	if strings.Contains(name, "/") {
		return errs
	}
	switch name {
	case string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
		return errs
	}
	return append(errs, field.Invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified"))
}

func validateNamespaceStatus(n, _ *corev1.Namespace) field.ErrorList {
	path := field.NewPath("status", "Phase")
	switch {
	case n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case !n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}
