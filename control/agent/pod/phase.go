package pod

import (
	corev1 "k8s.io/api/core/v1"
)

// tally counts the containers of a pod by what they are up to.
type tally struct {
	pendingInit, pendingSidecar, failedInit             int
	unknown, running, waiting, stopped, done, succeeded int
}

// phase derives a pod's phase from its containers' statuses. final says that nothing will be started again, begun that a
// regular container has run, from when on a restarting sidecar does not make the pod pending again.
func phase(p *corev1.Pod, s *corev1.PodStatus, final, begun bool) corev1.PodPhase {
	t := count(p, s)
	switch {
	case t.failedInit > 0:
		return corev1.PodFailed
	case t.pendingInit > 0 || t.pendingSidecar > 0 && !begun || t.waiting > 0:
		return corev1.PodPending
	case t.running > 0 && t.unknown == 0:
		return corev1.PodRunning
	case t.running == 0 && t.stopped > 0 && t.unknown == 0:
		if !final && t.stopped != t.done {
			return corev1.PodRunning
		}
		if t.stopped == t.succeeded {
			return corev1.PodSucceeded
		}
		return corev1.PodFailed
	}
	return corev1.PodPending
}

func count(p *corev1.Pod, s *corev1.PodStatus) tally {
	var t tally
	for i := range p.Spec.InitContainers {
		c, st := &p.Spec.InitContainers[i], &s.InitContainerStatuses[i]
		if restartable(c) {
			t.sidecar(st)
		} else {
			t.init(p, c, st)
		}
	}
	for i := range s.ContainerStatuses {
		t.regular(p, find(p, s.ContainerStatuses[i].Name), &s.ContainerStatuses[i])
	}
	return t
}

// ended returns the end that counts for a container: its present one, or the last one of a container that waits to restart.
func ended(s *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	if s.State.Waiting != nil {
		return s.LastTerminationState.Terminated
	}
	return s.State.Terminated
}

func (t *tally) init(p *corev1.Pod, c *corev1.Container, s *corev1.ContainerStatus) {
	end := ended(s)
	switch {
	case end == nil:
		t.pendingInit++
	case end.ExitCode != 0 && shouldRestart(p, c, end.ExitCode):
		// A failed init container that will be retried leaves the pod pending through the regular containers that wait.
	case end.ExitCode != 0:
		t.failedInit++
	}
}

func (t *tally) sidecar(s *corev1.ContainerStatus) {
	switch {
	case s.State.Running != nil:
		if s.Started == nil || !*s.Started {
			t.pendingSidecar++
		}
		t.running++
	case s.State.Waiting != nil && s.LastTerminationState.Terminated == nil:
		t.pendingSidecar++
		t.waiting++
	}
}

func (t *tally) regular(p *corev1.Pod, c *corev1.Container, s *corev1.ContainerStatus) {
	end := ended(s)
	switch {
	case s.State.Running != nil:
		t.running++
	case end != nil:
		t.stopped++
		if !shouldRestart(p, c, end.ExitCode) {
			t.done++
		}
		// A container that waits to restart does not count as a success, whatever its last run came to.
		if s.State.Terminated != nil && end.ExitCode == 0 {
			t.succeeded++
		}
	case s.State.Waiting != nil:
		t.waiting++
	default:
		t.unknown++
	}
}
