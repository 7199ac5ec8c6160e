package api

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
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
	}
}
