package api

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func clusterRoleBindingResource() *Resource {
	return &Resource{
		GroupVersion:             rbacv1.SchemeGroupVersion,
		Kind:                     "ClusterRoleBinding",
		Name:                     "clusterrolebindings",
		Singular:                 "clusterrolebinding",
		New:                      func() runtime.Object { return &rbacv1.ClusterRoleBinding{} },
		NewList:                  func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
		Default:                  set(func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		ValidateName:             roleName,
		Validate:                 one(validateClusterRoleBinding),
		ValidateUpdate: two(func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			return append(validateClusterRoleBinding(b), checkImmutable(field.NewPath("roleRef"), b.RoleRef, old.RoleRef)...)
		}),
		Columns: bindingColumns(rbacv1.ClusterRoleBinding{}.SwaggerDoc()["roleRef"], "clusterRoleBinding"),
		Cells:   one(func(b *rbacv1.ClusterRoleBinding) []any { return bindingCells(&b.ObjectMeta, b.RoleRef, b.Subjects) }),
	}
}

func validateClusterRoleBinding(b *rbacv1.ClusterRoleBinding) field.ErrorList {
	return append(validateRoleRef(b.RoleRef, "ClusterRole"), validateSubjects(b.Subjects, false)...)
}
