package api

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
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
	}
}
