package pod

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/control/agent/container"
)

// status computes what is to be reported of a pod. Conditions that others own are not in it.
func status(p *corev1.Pod, v *View) corev1.PodStatus {
	s := corev1.PodStatus{
		ObservedGeneration: p.Generation,
		QOSClass:           QOSClass(p),
		NominatedNodeName:  p.Status.NominatedNodeName,
		Resize:             p.Status.Resize,
	}
	if !v.StartTime.IsZero() {
		t := metav1.NewTime(v.StartTime)
		s.StartTime = &t
	}
	if v.Rejected != nil {
		s.Phase, s.Reason, s.Message = corev1.PodFailed, v.Rejected.Reason, v.Rejected.Message
		s.Conditions = conditions(p, v, &s)
		return s
	}
	addresses(p, v, &s)
	initialized := regularBegun(p, v)
	for i := range p.Spec.InitContainers {
		s.InitContainerStatuses = append(s.InitContainerStatuses, containerStatus(p, v, &p.Spec.InitContainers[i], initialized))
	}
	done := allInitialized(p, s.InitContainerStatuses) || initialized
	for i := range p.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, containerStatus(p, v, &p.Spec.Containers[i], done))
	}
	slices.SortFunc(s.ContainerStatuses, func(a, b corev1.ContainerStatus) int { return cmp.Compare(a.Name, b.Name) })
	s.EphemeralContainerStatuses = p.Status.EphemeralContainerStatuses
	s.Phase = phaseOf(p, v, &s)
	if pastDeadline(p, v) {
		s.Reason, s.Message = "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
	} else if p.Status.Phase == corev1.PodFailed {
		s.Reason, s.Message = p.Status.Reason, p.Status.Message
	}
	s.Conditions = conditions(p, v, &s)
	return s
}

// phaseOf is the pod's phase. A terminal phase stays, and is reported only when the last process has ended: others take it as
// the sign that the pod uses nothing any more.
func phaseOf(p *corev1.Pod, v *View, s *corev1.PodStatus) corev1.PodPhase {
	if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return p.Status.Phase
	}
	alive := anyAlive(p, v) || len(v.Busy) > 0
	f := phase(p, s, ending(p, v) && !alive, regularBegun(p, v))
	if pastDeadline(p, v) && !alive {
		return corev1.PodFailed
	}
	if alive && (f == corev1.PodFailed || f == corev1.PodSucceeded) {
		if p.Status.Phase == "" {
			return corev1.PodPending
		}
		return p.Status.Phase
	}
	return f
}

func addresses(p *corev1.Pod, v *View, s *corev1.PodStatus) {
	if len(v.HostIPs) > 0 {
		s.HostIP = v.HostIPs[0]
	}
	for _, ip := range v.HostIPs {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
	}
	ips := v.Sandbox.IPs
	if p.Spec.HostNetwork {
		ips = v.HostIPs
	}
	if len(ips) == 0 {
		s.PodIP, s.PodIPs = p.Status.PodIP, p.Status.PodIPs
		return
	}
	s.PodIP = ips[0]
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
}

func allInitialized(p *corev1.Pod, statuses []corev1.ContainerStatus) bool {
	for i := range p.Spec.InitContainers {
		c, s := &p.Spec.InitContainers[i], &statuses[i]
		if restartable(c) {
			if s.Started == nil || !*s.Started {
				return false
			}
		} else if !s.Ready {
			return false
		}
	}
	return true
}

// containerStatus computes the status of one container. initialized says that the pod's init containers are done.
func containerStatus(p *corev1.Pod, v *View, c *corev1.Container, initialized bool) corev1.ContainerStatus {
	old := reported(p, c.Name)
	list := v.Containers[c.Name]
	started := false
	s := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: &started}
	if len(list) == 0 || len(list) == 1 && starting(v, &list[0]) {
		return unstarted(p, v, c, s, old, initialized)
	}
	if starting(v, &list[0]) {
		// What is shown is the run before, ended, and the wait for the next.
		list = list[1:]
	}
	now := &list[0]
	s.RestartCount = int32(now.Attempt)
	s.ImageID = now.ImageID
	s.ContainerID = containerID(now.ID)
	s.Resources = resourcesOf(c)
	s.AllocatedResources = c.Resources.Requests
	s.User = old.User
	if len(list) > 1 {
		s.LastTerminationState = corev1.ContainerState{Terminated: terminated(&list[1], v)}
	} else if now.Attempt > 0 {
		s.LastTerminationState = remembered(old, s.ContainerID)
	}
	if now.State == container.Running {
		h := v.Health[now.ID]
		started = h.Started
		// A plain init container is ready when it has succeeded, not while it runs.
		s.Ready = h.Started && h.Ready && (!isInit(p, c.Name) || restartable(c))
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.StartedAt)}
		return s
	}
	end := terminated(now, v)
	s.Ready = isInit(p, c.Name) && !restartable(c) && now.ExitCode == 0
	if wait, ok := held(p, v, c, now); ok {
		s.State.Waiting, s.LastTerminationState = wait, corev1.ContainerState{Terminated: end}
		return s
	}
	s.State.Terminated = end
	return s
}

// starting says that a container is not shown yet: its program has not begun, or its postStart hook has not ended.
func starting(v *View, s *container.Status) bool {
	return s.State == container.Created || s.State == container.Running && v.Busy[s.Name] == OpStart
}

// unstarted is the status of a container that the runtime does not know.
func unstarted(p *corev1.Pod, v *View, c *corev1.Container, s, old corev1.ContainerStatus, initialized bool) corev1.ContainerStatus {
	if old.ContainerID != "" {
		s.RestartCount, s.ImageID, s.ContainerID = old.RestartCount, old.ImageID, old.ContainerID
		s.LastTerminationState = old.LastTerminationState
		switch {
		case old.State.Terminated != nil:
			if isInit(p, c.Name) && !restartable(c) {
				s.Ready = old.State.Terminated.ExitCode == 0
			}
			s.State = old.State
			return s
		case old.State.Running != nil:
			lost := &corev1.ContainerStateTerminated{
				Reason: "ContainerStatusUnknown", ExitCode: 137, ContainerID: old.ContainerID, StartedAt: old.State.Running.StartedAt,
				Message: "The container could not be located when the pod was terminated",
			}
			if ending(p, v) || !shouldRestart(p, c, lost.ExitCode) {
				s.State.Terminated = lost
				return s
			}
			s.LastTerminationState.Terminated = lost
		}
	}
	if w, ok := v.Waiting[c.Name]; ok {
		s.State.Waiting = w.state(v)
		return s
	}
	reason := "ContainerCreating"
	if len(p.Spec.InitContainers) > 0 && !initialized {
		reason = "PodInitializing"
	}
	s.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason}
	return s
}

// held is the waiting state of a container that ended and is to run again, when there is a reason to tell.
func held(p *corev1.Pod, v *View, c *corev1.Container, s *container.Status) (*corev1.ContainerStateWaiting, bool) {
	if ending(p, v) || over(p, v) || !shouldRestart(p, c, s.ExitCode) {
		return nil, false
	}
	b := v.Backoff[c.Name]
	if w, ok := v.Waiting[c.Name]; ok && (w.Reason != runError || b.Delay == 0 || v.Now.Before(w.Since.Add(settle))) {
		return w.state(v), true
	}
	if _, wait := b.until(s.FinishedAt, v.Now); wait {
		return &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: b.message(c.Name, fullName(p))}, true
	}
	return nil, false
}

func (w Waiting) state(v *View) *corev1.ContainerStateWaiting {
	if w.LaterReason != "" && !v.Now.Before(w.Since.Add(settle)) {
		return &corev1.ContainerStateWaiting{Reason: w.LaterReason, Message: w.LaterMessage}
	}
	return &corev1.ContainerStateWaiting{Reason: w.Reason, Message: w.Message}
}

func terminated(s *container.Status, v *View) *corev1.ContainerStateTerminated {
	reason := s.Reason
	switch {
	case s.OOMKilled:
		reason = "OOMKilled"
	case reason == "" && s.ExitCode == 0:
		reason = "Completed"
	case reason == "":
		reason = "Error"
	}
	message := s.Message
	if m := v.Terminations[s.ID]; m != "" {
		message = m
	}
	return &corev1.ContainerStateTerminated{
		ExitCode: s.ExitCode, Signal: 0, Reason: reason, Message: message,
		StartedAt: wholeSeconds(s.StartedAt), FinishedAt: wholeSeconds(s.FinishedAt), ContainerID: containerID(s.ID),
	}
}

// wholeSeconds is a time as the API keeps it; the epoch stands for "never", as upstream has it.
func wholeSeconds(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.NewTime(time.Unix(0, 0))
	}
	return metav1.NewTime(t)
}

// remembered is the last termination that the API knows, for a container whose earlier record the runtime has lost.
func remembered(old corev1.ContainerStatus, id string) corev1.ContainerState {
	if old.State.Terminated != nil && old.ContainerID != id {
		return old.State
	}
	return old.LastTerminationState
}

func reported(p *corev1.Pod, name string) corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return list[i]
			}
		}
	}
	return corev1.ContainerStatus{}
}

func containerID(id string) string { return "containerd://" + id }

func resourcesOf(c *corev1.Container) *corev1.ResourceRequirements {
	return &corev1.ResourceRequirements{Limits: c.Resources.Limits, Requests: c.Resources.Requests}
}
