package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func serviceAccountResource() *Resource {
	return &Resource{
		GroupVersion:             corev1.SchemeGroupVersion,
		Kind:                     "ServiceAccount",
		Name:                     "serviceaccounts",
		Singular:                 "serviceaccount",
		ShortNames:               []string{"sa"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &corev1.ServiceAccount{} },
		NewList:                  func() runtime.Object { return &corev1.ServiceAccountList{} },
		AllowUnconditionalUpdate: true,
	}
}
