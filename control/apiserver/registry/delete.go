package registry

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
)

// GracefulDelete decides whether an object is only marked at first, and sets the grace period of the options then.
type GracefulDelete func(obj runtime.Object, options *metav1.DeleteOptions) bool

type graceful struct {
	strategy
	decide GracefulDelete
}

// CheckGracefulDelete implements rest.RESTGracefulDeleteStrategy.
func (g graceful) CheckGracefulDelete(_ context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	return options != nil && g.decide(obj, options)
}

func deleteStrategy(s strategy, decide GracefulDelete) rest.RESTDeleteStrategy {
	if decide == nil {
		return s
	}
	return graceful{s, decide}
}

// DeletePod gives a pod the grace period that the request or its spec asks for; one that no node runs, or that has ended,
// goes at once.
func DeletePod(obj runtime.Object, options *metav1.DeleteOptions) bool {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return false
	}
	period := int64(corev1.DefaultTerminationGracePeriodSeconds)
	switch {
	case options.GracePeriodSeconds != nil:
		period = *options.GracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		period = *pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		period = 0
	}
	if period < 0 {
		period = 1
	}
	options.GracePeriodSeconds = &period
	return true
}
