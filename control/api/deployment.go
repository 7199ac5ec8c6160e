package api

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func deploymentResource() *Resource {
	return &Resource{
		GroupVersion:             appsv1.SchemeGroupVersion,
		Kind:                     "Deployment",
		Name:                     "deployments",
		Singular:                 "deployment",
		ShortNames:               []string{"deploy"},
		Categories:               []string{"all"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &appsv1.Deployment{} },
		NewList:                  func() runtime.Object { return &appsv1.DeploymentList{} },
		HasStatus:                true,
		HasScale:                 true,
		AllowUnconditionalUpdate: true,
	}
}
