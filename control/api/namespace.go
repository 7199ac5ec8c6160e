package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
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
	}
}
