package pod

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// owned are the condition types that the node writes; all others belong to somebody else and stay as they are.
var owned = map[corev1.PodConditionType]bool{
	corev1.PodReadyToStartContainers: true,
	corev1.PodInitialized:            true,
	corev1.PodReady:                  true,
	corev1.ContainersReady:           true,
	corev1.PodScheduled:              true,
}

// conditions computes the conditions that the node owns.
func conditions(p *corev1.Pod, v *View, s *corev1.PodStatus) []corev1.PodCondition {
	ready := containersReady(p, s)
	list := []corev1.PodCondition{
		readyToStart(v),
		initialized(p, v, s),
		podReady(p, ready),
		ready,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	for i := range list {
		list[i].ObservedGeneration = p.Generation
	}
	return list
}

func readyToStart(v *View) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse}
	if v.Sandbox.Ready && !v.Sandbox.Removed {
		c.Status = corev1.ConditionTrue
	}
	return c
}

func initialized(p *corev1.Pod, v *View, s *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	switch {
	case v.Rejected != nil:
		c.Status, c.Reason = corev1.ConditionFalse, "PodFailed"
		return c
	case s.Phase == corev1.PodSucceeded:
		c.Reason = "PodCompleted"
		return c
	case regularBegun(p, v):
		return c
	}
	var open []string
	for i := range p.Spec.InitContainers {
		init, st := &p.Spec.InitContainers[i], &s.InitContainerStatuses[i]
		if restartable(init) && (st.Started == nil || !*st.Started) || !restartable(init) && !st.Ready {
			open = append(open, init.Name)
		}
	}
	if len(open) > 0 {
		c.Status, c.Reason = corev1.ConditionFalse, "ContainersNotInitialized"
		c.Message = fmt.Sprintf("containers with incomplete status: %s", open)
	}
	return c
}

func containersReady(p *corev1.Pod, s *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	switch s.Phase {
	case corev1.PodSucceeded:
		c.Reason = "PodCompleted"
		return c
	case corev1.PodFailed:
		c.Reason = "PodFailed"
		return c
	}
	var unready []string
	for i := range p.Spec.InitContainers {
		if st := &s.InitContainerStatuses[i]; restartable(&p.Spec.InitContainers[i]) && !st.Ready {
			unready = append(unready, st.Name)
		}
	}
	for i := range p.Spec.Containers {
		for j := range s.ContainerStatuses {
			if st := &s.ContainerStatuses[j]; st.Name == p.Spec.Containers[i].Name && !st.Ready {
				unready = append(unready, st.Name)
			}
		}
	}
	if len(unready) > 0 {
		c.Reason, c.Message = "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)
		return c
	}
	c.Status = corev1.ConditionTrue
	return c
}

// podReady is the containers' readiness together with the readiness gates, which others set.
func podReady(p *corev1.Pod, containers corev1.PodCondition) corev1.PodCondition {
	c := containers
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	var missing []string
	for _, gate := range p.Spec.ReadinessGates {
		switch g := condition(p.Status.Conditions, gate.ConditionType); {
		case g == nil:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case g.Status != corev1.ConditionTrue:
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, g.Status))
		}
	}
	if len(missing) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(missing, ", ")
	}
	return c
}

func condition(list []corev1.PodCondition, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range list {
		if list[i].Type == t {
			return &list[i]
		}
	}
	return nil
}

// mergeConditions puts the node's conditions into a status beside those of others. A condition whose status did not change
// keeps the time of its last change.
func mergeConditions(old, now []corev1.PodCondition, at metav1.Time) []corev1.PodCondition {
	var out []corev1.PodCondition
	for _, c := range old {
		if !owned[c.Type] {
			out = append(out, c)
		}
	}
	for _, c := range now {
		c.LastTransitionTime = at
		if was := condition(old, c.Type); was != nil {
			if was.Status == c.Status {
				c.LastTransitionTime = was.LastTransitionTime
			}
			if c.Type == corev1.PodScheduled {
				c.ObservedGeneration = was.ObservedGeneration
			}
		}
		out = append(out, c)
	}
	return out
}
