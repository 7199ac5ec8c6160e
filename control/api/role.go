package api

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
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
	}
}
