package api

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func roleBindingResource() *Resource {
	return &Resource{
		GroupVersion:             rbacv1.SchemeGroupVersion,
		Kind:                     "RoleBinding",
		Name:                     "rolebindings",
		Singular:                 "rolebinding",
		Namespaced:               true,
		New:                      func() runtime.Object { return &rbacv1.RoleBinding{} },
		NewList:                  func() runtime.Object { return &rbacv1.RoleBindingList{} },
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
		Default:                  set(func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		ValidateName:             roleName,
		Validate:                 one(validateRoleBinding),
		ValidateUpdate: two(func(b, old *rbacv1.RoleBinding) field.ErrorList {
			return append(validateRoleBinding(b), checkImmutable(field.NewPath("roleRef"), b.RoleRef, old.RoleRef)...)
		}),
		Columns: bindingColumns(rbacv1.RoleBinding{}.SwaggerDoc()["roleRef"], "roleBinding"),
		Cells:   one(func(b *rbacv1.RoleBinding) []any { return bindingCells(&b.ObjectMeta, b.RoleRef, b.Subjects) }),
	}
}

func validateRoleBinding(b *rbacv1.RoleBinding) field.ErrorList {
	return append(validateRoleRef(b.RoleRef, "Role", "ClusterRole"), validateSubjects(b.Subjects, true)...)
}

// defaultBinding puts the roles, users and groups that a binding of either kind names into their API group.
func defaultBinding(role *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	role.APIGroup = orElse(role.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if k := subjects[i].Kind; k == rbacv1.UserKind || k == rbacv1.GroupKind {
			subjects[i].APIGroup = orElse(subjects[i].APIGroup, rbacv1.GroupName)
		}
	}
}

func validateRoleRef(role rbacv1.RoleRef, kinds ...string) field.ErrorList {
	ref := field.NewPath("roleRef")
	errs := checkSet(ref.Child("apiGroup"), role.APIGroup, rbacv1.GroupName)
	errs = append(errs, checkSet(ref.Child("kind"), role.Kind, kinds...)...)
	if role.Name == "" {
		return append(errs, field.Required(ref.Child("name"), ""))
	}
	return append(errs, invalid(ref.Child("name"), role.Name, roleName(role.Name, false))...)
}

func validateSubjects(subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i := range subjects {
		errs = append(errs, validateSubject(&subjects[i], namespaced, field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func validateSubject(s *rbacv1.Subject, namespaced bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			errs = append(errs, invalid(at.Child("name"), s.Name, validation.ValidateServiceAccountName(s.Name, false))...)
		}
		errs = append(errs, checkSet(at.Child("apiGroup"), s.APIGroup, "")...)
		if !namespaced && s.Namespace == "" {
			errs = append(errs, field.Required(at.Child("namespace"), ""))
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		errs = append(errs, checkSet(at.Child("apiGroup"), s.APIGroup, rbacv1.GroupName)...)
	default:
		errs = append(errs, field.NotSupported(at.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	return errs
}

// roleName lets roles and bindings have any name that can stand in a URL: names with a colon are common.
func roleName(name string, _ bool) []string {
	return content.IsPathSegmentName(name)
}
