package pod

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/control/agent/container"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// onePod has one container, c.
func onePod(edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"},
		Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "c"}}},
	}
	for _, edit := range edits {
		edit(p)
	}
	return p
}

func policy(r corev1.RestartPolicy) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.RestartPolicy = r }
}

func withInit(restart *corev1.ContainerRestartPolicy) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "i", RestartPolicy: restart})
	}
}

func deleted(p *corev1.Pod) {
	t, grace := metav1.NewTime(now), int64(5)
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &t, &grace
}

// seen is a view of a prepared pod with containers written "name/attempt:state", where state is created, running or an exit code.
func seen(containers ...string) *View {
	v := &View{
		Now: now, StartTime: now.Add(-time.Minute), HostIPs: []string{"192.0.2.1"}, Sandbox: Sandbox{Ready: true, IPs: []string{"10.244.0.7"}},
		Containers: map[string][]container.Status{}, Waiting: map[string]Waiting{}, Health: map[string]Health{},
		Backoff: map[string]Backoff{}, Busy: map[string]Operation{}, Terminations: map[string]string{},
	}
	for _, text := range containers {
		name, state, _ := strings.Cut(text, ":")
		s := container.Status{ID: name, StartedAt: now.Add(-time.Second)}
		s.Name, _, _ = strings.Cut(name, "/")
		fmt.Sscanf(name[len(s.Name):], "/%d", &s.Attempt)
		switch state {
		case "created":
			s.State = container.Created
		case "running":
			s.State = container.Running
			v.Health[s.ID] = Health{Started: true, Ready: true}
		default:
			s.State, s.FinishedAt = container.Exited, now.Add(-time.Second)
			fmt.Sscan(state, &s.ExitCode)
		}
		v.Containers[s.Name] = append(v.Containers[s.Name], s)
	}
	return v
}

func (v *View) with(edit func(*View)) *View { edit(v); return v }

func TestStep(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	for _, row := range []struct {
		name string
		pod  *corev1.Pod
		view *View
		// actions are written "Type container", phase and shown (the state of c) as reported.
		actions, phase, shown string
	}{
		{"new", onePod(), seen().with(func(v *View) { v.Sandbox = Sandbox{} }), "PrepareSandbox", "Pending", "ContainerCreating"},
		{"preparing", onePod(), seen().with(func(v *View) { v.Sandbox = Sandbox{Busy: true} }), "", "Pending", "ContainerCreating"},
		{"prepared", onePod(), seen(), "StartContainer c", "Pending", "ContainerCreating"},
		{"starting", onePod(), seen().with(func(v *View) { v.Busy["c"] = OpStart }), "", "Pending", "ContainerCreating"},
		{"post-start hook", onePod(), seen("c/0:running").with(func(v *View) { v.Busy["c"] = OpStart }), "", "Pending", "ContainerCreating"},
		{"running", onePod(), seen("c/0:running"), "", "Running", "running"},
		{"created before a crash", onePod(), seen("c/0:created"), "StartContainer c", "Pending", "ContainerCreating"},
		{"ended, always", onePod(), seen("c/0:0"), "StartContainer c", "Running", "exit 0"},
		{"ended, on failure", onePod(policy("OnFailure")), seen("c/0:0"), "TearDownSandbox", "Succeeded", "exit 0"},
		{"failed, on failure", onePod(policy("OnFailure")), seen("c/0:1"), "StartContainer c", "Running", "exit 1"},
		{"failed, never", onePod(policy("Never")), seen("c/0:1"), "TearDownSandbox", "Failed", "exit 1"},
		{"back-off", onePod(), seen("c/1:1").with(func(v *View) { v.Backoff["c"] = Backoff{Delay: backoffFirst, Last: now} }),
			"BackOff c", "Running", "CrashLoopBackOff"},
		{"back-off is over", onePod(), seen("c/1:1").with(func(v *View) { v.Backoff["c"] = Backoff{Delay: time.Second, Last: now} }),
			"StartContainer c", "Running", "exit 1"},
		{"just failed to start", onePod(), seen("c/0:128").with(func(v *View) {
			v.Backoff["c"], v.Waiting["c"] = Backoff{Delay: backoffFirst, Last: now}, Waiting{Reason: runError, Since: now}
		}), "BackOff c", "Running", "RunContainerError"},
		{"failed to start a while ago", onePod(), seen("c/0:128").with(func(v *View) {
			v.Backoff["c"], v.Waiting["c"] = Backoff{Delay: backoffFirst, Last: now}, Waiting{Reason: runError, Since: now.Add(-settle)}
		}), "BackOff c", "Running", "CrashLoopBackOff"},
		{"image missing", onePod(), seen().with(func(v *View) {
			v.Waiting["c"] = Waiting{Reason: "ErrImagePull", LaterReason: "ImagePullBackOff", Since: now, RetryAt: now.Add(backoffFirst)}
		}), "", "Pending", "ErrImagePull"},
		{"image missing for a while", onePod(), seen().with(func(v *View) {
			v.Waiting["c"] = Waiting{Reason: "ErrImagePull", LaterReason: "ImagePullBackOff", Since: now.Add(-settle), RetryAt: now.Add(time.Second)}
		}), "", "Pending", "ImagePullBackOff"},
		{"unhealthy", onePod(), seen("c/0:running").with(func(v *View) { v.Health["c/0"] = Health{Started: true, Failed: CauseLiveness} }),
			"StopContainer c", "Running", "running"},
		{"init first", onePod(withInit(nil)), seen(), "StartContainer i", "Pending", "PodInitializing"},
		{"init runs", onePod(withInit(nil)), seen("i/0:running"), "", "Pending", "PodInitializing"},
		{"init done", onePod(withInit(nil)), seen("i/0:0"), "StartContainer c", "Pending", "ContainerCreating"},
		{"init failed, never", onePod(withInit(nil), policy("Never")), seen("i/0:1"), "TearDownSandbox", "Failed", "PodInitializing"},
		{"init failed, always", onePod(withInit(nil)), seen("i/0:1"), "StartContainer i", "Pending", "PodInitializing"},
		{"sidecar started", onePod(withInit(&always)), seen("i/0:running"), "StartContainer c", "Pending", "ContainerCreating"},
		{"sidecar ends with the pod", onePod(withInit(&always), policy("Never")), seen("i/0:running", "c/0:0"), "StopContainer i", "Running", "exit 0"},
		{"deleted", onePod(deleted), seen("c/0:running"), "StopContainer c", "Running", "running"},
		{"deleted, sidecar last", onePod(deleted, withInit(&always)), seen("i/0:running", "c/0:running"), "StopContainer c", "Running", "running"},
		{"deleted and ended", onePod(deleted), seen("c/0:0"), "TearDownSandbox", "Succeeded", "exit 0"},
		{"deleted and gone", onePod(deleted), seen("c/0:0").with(func(v *View) { v.Sandbox = Sandbox{Removed: true} }), "DeletePod", "Succeeded", "exit 0"},
		{"forgotten by the API", onePod(), seen("c/0:0").with(func(v *View) { v.Gone, v.Sandbox = true, Sandbox{Removed: true} }),
			"RemoveContainer c", "Succeeded", "exit 0"},
		{"old attempts", onePod(), seen("c/3:running", "c/2:1", "c/1:1"), "RemoveContainer c", "Running", "running"},
	} {
		plan := Step(row.pod, row.view)
		var actions []string
		for _, a := range plan.Actions {
			actions = append(actions, strings.TrimSpace(string(a.Type)+" "+a.Container))
		}
		if got := strings.Join(actions, ", "); got != row.actions {
			t.Errorf("%s: actions %q, want %q", row.name, got, row.actions)
		}
		if got := string(plan.Status.Phase); got != row.phase {
			t.Errorf("%s: phase %s, want %s", row.name, got, row.phase)
		}
		if got := shown(plan.Status.ContainerStatuses[0].State); got != row.shown {
			t.Errorf("%s: c is %s, want %s", row.name, got, row.shown)
		}
	}
}

func shown(s corev1.ContainerState) string {
	switch {
	case s.Waiting != nil:
		return s.Waiting.Reason
	case s.Running != nil:
		return "running"
	}
	return fmt.Sprintf("exit %d", s.Terminated.ExitCode)
}
