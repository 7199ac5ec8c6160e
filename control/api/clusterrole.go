package api

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func clusterRoleResource() *Resource {
	return &Resource{
		GroupVersion:             rbacv1.SchemeGroupVersion,
		Kind:                     "ClusterRole",
		Name:                     "clusterroles",
		Singular:                 "clusterrole",
		New:                      func() runtime.Object { return &rbacv1.ClusterRole{} },
		NewList:                  func() runtime.Object { return &rbacv1.ClusterRoleList{} },
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}
