package pod_test

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	clientfake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/pod"
	"github.com/skep-io/skep/control/agent/runtime/fake"
)

type sandboxes struct{}

func (sandboxes) Prepare(context.Context, *corev1.Pod) (pod.Prepared, error) {
	return pod.Prepared{IPs: []netip.Addr{netip.MustParseAddr("10.244.0.7")}}, nil
}
func (sandboxes) Remove(context.Context, string) error   { return nil }
func (sandboxes) Retain(context.Context, []string) error { return nil }

type volumes struct{ sandboxes }

func (volumes) Prepare(context.Context, *corev1.Pod) error { return nil }
func (volumes) Mounts(*corev1.Pod, *corev1.Container) ([]container.Mount, error) {
	return nil, nil
}

type inputs struct{}

func (inputs) Env(context.Context, *corev1.Pod, *corev1.Container) ([]container.EnvVar, error) {
	return nil, nil
}
func (inputs) Credentials(context.Context, *corev1.Pod) ([]container.Credential, []string) {
	return nil, nil
}
func (inputs) Release(string) {}

// node is a Manager over fakes.
type node struct {
	t       *testing.T
	client  *clientfake.Clientset
	runtime *fake.Runtime
	watch   watch.Interface
	stop    context.CancelFunc
}

func startNode(t *testing.T, pods ...*corev1.Pod) *node {
	client := clientfake.NewClientset()
	for _, p := range pods {
		if _, err := client.CoreV1().Pods(p.Namespace).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w, err := client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, client: client, runtime: fake.New("echo:1"), watch: w}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

// start runs a Manager, as after the start of the process.
func (n *node) start() {
	ctx, cancel := context.WithCancel(n.t.Context())
	n.stop = cancel
	factory := informers.NewSharedInformerFactory(n.client, 0)
	informer := factory.Core().V1().Pods().Informer()
	factory.Start(ctx.Done())
	m := pod.New(pod.Config{
		NodeName: "n1", HostIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, LogDir: n.t.TempDir(), PodsDir: n.t.TempDir(),
		Client: n.client, Runtime: n.runtime, Sandboxes: sandboxes{}, Volumes: volumes{}, Inputs: inputs{},
		Admit:    func(*corev1.Pod, []*corev1.Pod) *pod.Rejection { return nil },
		Recorder: record.NewFakeRecorder(100), Logger: slog.New(slog.DiscardHandler),
	})
	go m.Run(ctx, informer)
}

// until waits for a status of the pod.
func (n *node) until(what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	n.t.Helper()
	timeout := time.After(10 * time.Second)
	var last *corev1.Pod
	for {
		select {
		case e := <-n.watch.ResultChan():
			if p, is := e.Object.(*corev1.Pod); is {
				last = p
				if e.Type == watch.Deleted && ok(nil) || e.Type != watch.Deleted && ok(p) {
					return p
				}
			}
		case <-timeout:
			n.t.Fatalf("no pod %s; last status %+v", what, last.Status)
		}
	}
}

func echo(policy corev1.RestartPolicy) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "echo", Namespace: "default", UID: "u1"},
		Spec: corev1.PodSpec{
			NodeName: "n1", RestartPolicy: policy,
			Containers: []corev1.Container{{Name: "c", Image: "echo:1", ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
}

func running(p *corev1.Pod) bool {
	return p != nil && p.Status.Phase == corev1.PodRunning && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].Ready
}

func (n *node) containerID() string {
	list, err := n.runtime.List(n.t.Context())
	if err != nil || len(list) == 0 {
		n.t.Fatalf("containers %v, %v", list, err)
	}
	return list[0].ID
}

func TestPodRunsAndSucceeds(t *testing.T) {
	n := startNode(t, echo(corev1.RestartPolicyNever))
	if p := n.until("running", running); p.Status.PodIP != "10.244.0.7" || p.Status.HostIP != "192.0.2.1" {
		t.Errorf("addresses %s, %s", p.Status.PodIP, p.Status.HostIP)
	}
	n.runtime.Exit(n.containerID(), 0)
	p := n.until("succeeded", func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodSucceeded })
	if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "Completed" {
		t.Errorf("state %+v", p.Status.ContainerStatuses[0].State)
	}
}

func TestPodRestartsAndBacksOff(t *testing.T) {
	n := startNode(t, echo(corev1.RestartPolicyAlways))
	n.until("running", running)
	n.runtime.Exit(n.containerID(), 1)
	n.until("restarted", func(p *corev1.Pod) bool { return running(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	list, _ := n.runtime.List(t.Context())
	for _, s := range list {
		if s.State == container.Running {
			n.runtime.Exit(s.ID, 1)
		}
	}
	n.until("held back", func(p *corev1.Pod) bool {
		w := p.Status.ContainerStatuses[0].State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff" && p.Status.Phase == corev1.PodRunning
	})
}

func TestRestartedAgentKeepsContainers(t *testing.T) {
	n := startNode(t, echo(corev1.RestartPolicyAlways))
	n.until("running", running)
	id := n.containerID()
	n.stop()
	n.start()
	grace := int64(5)
	p, err := n.client.CoreV1().Pods("default").Get(t.Context(), "echo", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if list, _ := n.runtime.List(t.Context()); len(list) != 1 || list[0].ID != id {
		t.Errorf("containers after restart: %+v", list)
	}
	now := metav1.Now()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	p.Finalizers = []string{"test/kept"}
	if _, err := n.client.CoreV1().Pods("default").Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.until("deleted", func(p *corev1.Pod) bool { return p == nil })
}
