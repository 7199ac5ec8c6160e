package scheduler

import (
	"context"
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// setCondition writes PodScheduled=False unless the pod says the same already. The UID makes the patch fail on a namesake.
func (s *Scheduler) setCondition(ctx context.Context, pod *corev1.Pod, message, reason string) error {
	next := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.Now(),
	}
	for _, current := range pod.Status.Conditions {
		if current.Type != next.Type || current.Status != next.Status {
			continue
		}
		if current.Reason == reason && current.Message == message {
			return nil
		}
		next.LastTransitionTime = current.LastTransitionTime
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{next}},
	})
	if err != nil {
		return err
	}
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// sameResources says whether two forms of a bound pod ask for the same resources: all else that counts cannot change after binding.
func sameResources(a, b *corev1.Pod) bool {
	return slices.EqualFunc(a.Spec.Containers, b.Spec.Containers, sameContainer) &&
		slices.EqualFunc(a.Spec.InitContainers, b.Spec.InitContainers, sameContainer) &&
		slices.EqualFunc(a.Status.ContainerStatuses, b.Status.ContainerStatuses, func(a, b corev1.ContainerStatus) bool {
			return apiequality.Semantic.DeepEqual(a.AllocatedResources, b.AllocatedResources)
		})
}

func sameContainer(a, b corev1.Container) bool {
	return apiequality.Semantic.DeepEqual(a.Resources, b.Resources)
}
