package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func configMapResource() *Resource {
	return &Resource{
		GroupVersion:             corev1.SchemeGroupVersion,
		Kind:                     "ConfigMap",
		Name:                     "configmaps",
		Singular:                 "configmap",
		ShortNames:               []string{"cm"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &corev1.ConfigMap{} },
		NewList:                  func() runtime.Object { return &corev1.ConfigMapList{} },
		AllowUnconditionalUpdate: true,
	}
}
