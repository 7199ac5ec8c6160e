package api

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func leaseResource() *Resource {
	return &Resource{
		GroupVersion:        coordinationv1.SchemeGroupVersion,
		Kind:                "Lease",
		Name:                "leases",
		Singular:            "lease",
		Namespaced:          true,
		New:                 func() runtime.Object { return &coordinationv1.Lease{} },
		NewList:             func() runtime.Object { return &coordinationv1.LeaseList{} },
		AllowCreateOnUpdate: true,
	}
}
