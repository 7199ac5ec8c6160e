package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func endpointsResource() *Resource {
	return &Resource{
		GroupVersion:             corev1.SchemeGroupVersion,
		Kind:                     "Endpoints",
		Name:                     "endpoints",
		Singular:                 "endpoints",
		ShortNames:               []string{"ep"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &corev1.Endpoints{} },
		NewList:                  func() runtime.Object { return &corev1.EndpointsList{} },
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}
