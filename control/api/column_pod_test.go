package api

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func waiting(name, reason string, restarts int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, RestartCount: restarts, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
}

func ended(name, reason string, code, signal int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code, Signal: signal}}}
}

func running(name string, ready bool) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, Ready: ready, Started: ptr.To(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
}

func restarted(s corev1.ContainerStatus, count int32, ago time.Duration) corev1.ContainerStatus {
	s.RestartCount = count
	s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(time.Now().Add(-ago))}
	return s
}

func TestPodCells(t *testing.T) {
	always := ptr.To(corev1.ContainerRestartPolicyAlways)
	now := metav1.Now()
	for _, c := range []struct {
		name   string
		change func(*corev1.Pod)
		want   []any // Ready, Status, Restarts
	}{
		{"running", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{running("a", true), running("b", true)}
		},
			[]any{"2/2", "Running", "0"}},
		{"reason of the first container", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{waiting("a", "CrashLoopBackOff", 3), waiting("b", "ErrImagePull", 1)}
		}, []any{"0/2", "CrashLoopBackOff", "4"}},
		{"restarts with a time", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{restarted(running("a", true), 3, 5*time.Minute), running("b", true)}
		}, []any{"2/2", "Running", "3 (5m ago)"}},
		{"pod reason", func(p *corev1.Pod) { p.Status.Reason = "Evicted" }, []any{"0/2", "Evicted", "0"}},
		{"gated", func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated}}
		}, []any{"0/2", "SchedulingGated", "0"}},
		{"completed", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{ended("a", "Completed", 0, 0), ended("b", "Completed", 0, 0)}
		}, []any{"0/2", "Completed", "0"}},
		{"one completed, the other failed", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{ended("a", "Completed", 0, 0), ended("b", "Error", 1, 0)}
		}, []any{"0/2", "Error", "0"}},
		{"one completed, the other runs", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{ended("a", "Completed", 0, 0), running("b", true)}
		}, []any{"1/2", "NotReady", "0"}},
		{"one completed, pod ready", func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{ended("a", "Completed", 0, 0), running("b", true)}
		}, []any{"1/2", "Running", "0"}},
		{"exit code", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{ended("a", "", 7, 0)} },
			[]any{"0/2", "ExitCode:7", "0"}},
		{"signal", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{ended("a", "", 137, 9)} },
			[]any{"0/2", "Signal:9", "0"}},
		{"initializing", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i"}, {Name: "j"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{ended("i", "Completed", 0, 0), running("j", false)}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{waiting("a", "PodInitializing", 0)}
		}, []any{"0/2", "Init:1/2", "0"}},
		{"init fails", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{waiting("i", "CrashLoopBackOff", 2)}
		}, []any{"0/2", "Init:CrashLoopBackOff", "2"}},
		{"init exit code", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{ended("i", "", 3, 0)}
		}, []any{"0/2", "Init:ExitCode:3", "0"}},
		{"restarts of finished init containers do not count", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i"}}
			i := ended("i", "Completed", 0, 0)
			i.RestartCount = 4
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{i}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{running("a", true), running("b", true)}
		}, []any{"2/2", "Running", "0"}},
		{"sidecar", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "s", RestartPolicy: always}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{restarted(running("s", true), 2, time.Hour)}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{running("a", true), running("b", true)}
		}, []any{"3/3", "Running", "2 (60m ago)"}},
		{"terminating", func(p *corev1.Pod) { p.DeletionTimestamp = &now }, []any{"0/2", "Terminating", "0"}},
		{"terminating when done", func(p *corev1.Pod) { p.DeletionTimestamp, p.Status.Phase = &now, corev1.PodSucceeded }, []any{"0/2", "Succeeded", "0"}},
		{"node lost", func(p *corev1.Pod) { p.DeletionTimestamp, p.Status.Reason = &now, "NodeLost" }, []any{"0/2", "Unknown", "0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
			pod.Spec.Containers = []corev1.Container{{Name: "a"}, {Name: "b"}}
			pod.Status.Phase = corev1.PodRunning
			c.change(pod)
			if got := podCells(pod)[1:4]; !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestPodWideCells(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: metav1.NewTime(time.Now().Add(-90 * time.Second))}}
	if got, want := podCells(pod)[4:], []any{"90s", none, none, none, none}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	pod.Spec.NodeName = "n"
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "a"}, {ConditionType: "b"}}
	pod.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}}
	pod.Status.NominatedNodeName = "m"
	pod.Status.Conditions = []corev1.PodCondition{{Type: "a", Status: corev1.ConditionTrue}}
	if got, want := podCells(pod)[5:], []any{"10.0.0.1", "n", "m", "1/2"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
