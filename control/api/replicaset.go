package api

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func replicaSetResource() *Resource {
	return &Resource{
		GroupVersion:             appsv1.SchemeGroupVersion,
		Kind:                     "ReplicaSet",
		Name:                     "replicasets",
		Singular:                 "replicaset",
		ShortNames:               []string{"rs"},
		Categories:               []string{"all"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &appsv1.ReplicaSet{} },
		NewList:                  func() runtime.Object { return &appsv1.ReplicaSetList{} },
		HasStatus:                true,
		HasScale:                 true,
		AllowUnconditionalUpdate: true,
	}
}
