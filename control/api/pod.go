package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func podResource() *Resource {
	return &Resource{
		GroupVersion:             corev1.SchemeGroupVersion,
		Kind:                     "Pod",
		Name:                     "pods",
		Singular:                 "pod",
		ShortNames:               []string{"po"},
		Categories:               []string{"all"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &corev1.Pod{} },
		NewList:                  func() runtime.Object { return &corev1.PodList{} },
		HasStatus:                true,
		AllowUnconditionalUpdate: true,
	}
}
