package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// defaultPod fills the spec of a pod, and the shape of a status that is yet to be written.
func defaultPod(p *corev1.Pod) {
	defaultPodSpec(&p.Spec)
	fill(&p.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	if p.Status.PodIP == "" && len(p.Status.PodIPs) > 0 {
		p.Status.PodIP = p.Status.PodIPs[0].IP
	}
	if p.Status.PodIP != "" && (len(p.Status.PodIPs) == 0 || p.Status.PodIPs[0].IP != p.Status.PodIP) {
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}} // old writers know only the one address
	}
}

// defaultPodSpec fills the spec of a pod or of a template.
func defaultPodSpec(s *corev1.PodSpec) {
	if s.RestartPolicy == "" {
		s.RestartPolicy = corev1.RestartPolicyAlways
	}
	if s.DNSPolicy == "" {
		s.DNSPolicy = corev1.DNSClusterFirst
	}
	s.SchedulerName = orElse(s.SchedulerName, corev1.DefaultSchedulerName)
	fill(&s.SecurityContext, corev1.PodSecurityContext{})
	fill(&s.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
}

func preparePod(p *corev1.Pod) {
	p.Generation = 1
	p.Status = corev1.PodStatus{Phase: corev1.PodPending}
}

// preparePodUpdate counts changes of the spec.
func preparePodUpdate(p, old *corev1.Pod) {
	p.Status = old.Status
	if !equality.Semantic.DeepEqual(p.Spec, old.Spec) {
		p.Generation = old.Generation + 1
	}
}

func preparePodStatus(p, old *corev1.Pod) {
	p.Spec = old.Spec
	p.Status.QOSClass = old.Status.QOSClass // set once, from the spec
	p.DeletionTimestamp = nil               // a status says nothing about deletion
	p.OwnerReferences = old.OwnerReferences
}
