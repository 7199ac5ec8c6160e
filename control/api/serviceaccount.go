package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
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
		ValidateName:             validation.ValidateServiceAccountName,
		PrepareForCreate:         set(nameSecretsOnly),
		PrepareForUpdate:         setFrom(func(s, _ *corev1.ServiceAccount) { nameSecretsOnly(s) }),
		Columns:                  nameAndAge(),
		Cells:                    one(serviceAccountCells),
	}
}

// nameSecretsOnly drops what a reference to a secret of the same namespace does not need.
func nameSecretsOnly(s *corev1.ServiceAccount) {
	for i, ref := range s.Secrets {
		s.Secrets[i] = corev1.ObjectReference{Name: ref.Name}
	}
}
