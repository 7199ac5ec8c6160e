package api

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func endpointSliceResource() *Resource {
	return &Resource{
		GroupVersion:             discoveryv1.SchemeGroupVersion,
		Kind:                     "EndpointSlice",
		Name:                     "endpointslices",
		Singular:                 "endpointslice",
		Namespaced:               true,
		New:                      func() runtime.Object { return &discoveryv1.EndpointSlice{} },
		NewList:                  func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
		AllowUnconditionalUpdate: true,
	}
}
