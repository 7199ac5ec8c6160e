package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func nodeResource() *Resource {
	return &Resource{
		GroupVersion:             corev1.SchemeGroupVersion,
		Kind:                     "Node",
		Name:                     "nodes",
		Singular:                 "node",
		ShortNames:               []string{"no"},
		New:                      func() runtime.Object { return &corev1.Node{} },
		NewList:                  func() runtime.Object { return &corev1.NodeList{} },
		HasStatus:                true,
		AllowUnconditionalUpdate: true,
	}
}
