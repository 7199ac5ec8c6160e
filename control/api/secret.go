package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func secretResource() *Resource {
	return &Resource{
		GroupVersion:             corev1.SchemeGroupVersion,
		Kind:                     "Secret",
		Name:                     "secrets",
		Singular:                 "secret",
		Namespaced:               true,
		New:                      func() runtime.Object { return &corev1.Secret{} },
		NewList:                  func() runtime.Object { return &corev1.SecretList{} },
		AllowUnconditionalUpdate: true,
	}
}
