package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func podTemplateErrors(*corev1.PodTemplateSpec, *field.Path) field.ErrorList { return nil }
