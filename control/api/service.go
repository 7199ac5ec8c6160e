package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func serviceResource() *Resource {
	return &Resource{
		GroupVersion:             corev1.SchemeGroupVersion,
		Kind:                     "Service",
		Name:                     "services",
		Singular:                 "service",
		ShortNames:               []string{"svc"},
		Categories:               []string{"all"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &corev1.Service{} },
		NewList:                  func() runtime.Object { return &corev1.ServiceList{} },
		HasStatus:                true,
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}
