package api

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func roleResource() *Resource {
	return &Resource{
		GroupVersion:             rbacv1.SchemeGroupVersion,
		Kind:                     "Role",
		Name:                     "roles",
		Singular:                 "role",
		Namespaced:               true,
		New:                      func() runtime.Object { return &rbacv1.Role{} },
		NewList:                  func() runtime.Object { return &rbacv1.RoleList{} },
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
		ValidateName:             roleName,
		Validate:                 one(func(r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) }),
		ValidateUpdate:           two(func(r, _ *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) }),
		Columns:                  createdAtColumns(),
		Cells:                    one(func(r *rbacv1.Role) []any { return createdAtCells(r) }),
	}
}
