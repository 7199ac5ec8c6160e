package api

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/control/api/podspec"
)

func podResource() *Resource {
	return &Resource{
		GroupVersion:             corev1.SchemeGroupVersion,
		Kind:                     "Pod",
		Name:                     "pods",
		Singular:                 "pod",
		ShortNames:               []string{"po"},
		Categories:               []string{"all"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &corev1.Pod{} },
		NewList:                  func() runtime.Object { return &corev1.PodList{} },
		HasStatus:                true,
		AllowUnconditionalUpdate: true,
		Default:                  set(podspec.SetPodDefaults),
		PrepareForCreate:         set(podspec.PrepareForCreate),
		PrepareForUpdate:         setFrom(podspec.PrepareForUpdate),
		PrepareForStatusUpdate:   setFrom(podspec.PrepareForStatusUpdate),
		Validate:                 one(podspec.ValidatePod),
		ValidateUpdate:           two(podspec.ValidatePodUpdate),
		ValidateStatusUpdate:     two(podspec.ValidatePodStatusUpdate),
		Warnings:                 one(podWarnings),
		ValidateName:             validation.NameIsDNSSubdomain,
		SelectableFields:         one(podFields),
		FieldAliases:             map[string]string{"status.podIPs": "status.podIPs", "spec.host": "spec.nodeName"},
		Columns:                  podColumns(),
		Cells:                    one(podCells),
	}
}

func podWarnings(p *corev1.Pod) []string {
	return podspec.Warnings(&p.Spec, field.NewPath("spec"))
}

func podFields(p *corev1.Pod) fields.Set {
	ip := ""
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(p.Spec.HostNetwork),
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             ip,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}
