package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

func testNode(name string, change ...func(*corev1.Node)) *corev1.Node {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("2"),
			corev1.ResourceMemory: resource.MustParse("4Gi"),
			corev1.ResourcePods:   resource.MustParse("110"),
		}},
	}
	for _, apply := range change {
		apply(node)
	}
	return node
}

func testPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), Labels: map[string]string{"app": "a"}},
		Spec:       corev1.PodSpec{SchedulerName: Name, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, apply := range change {
		apply(pod)
	}
	return pod
}

func requesting(cpu string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
}

func withPort(port int32, address string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: port, HostIP: address}}
	}
}

func antiAffine(pod *corev1.Pod) {
	pod.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: onHost()}}
}

func affine(pod *corev1.Pod) {
	pod.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: onHost()}}
}

func onHost() []corev1.PodAffinityTerm {
	return []corev1.PodAffinityTerm{{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}, TopologyKey: corev1.LabelHostname}}
}

func spreading(pod *corev1.Pod) {
	pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}},
	}}
}

func labelled(app string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Labels = map[string]string{"app": app} }
}

func TestChoose(t *testing.T) {
	tainted := func(node *corev1.Node) {
		node.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}
	}
	cases := []struct {
		name   string
		nodes  []*corev1.Node
		placed map[string]*corev1.Pod // by node
		pod    *corev1.Pod
		want   string // node, or the message
	}{
		{"no nodes", nil, nil, testPod("p"), "no nodes available to schedule pods"},
		{"fits", []*corev1.Node{testNode("a")}, nil, testPod("p", requesting("2")), "a"},
		{"cpu", []*corev1.Node{testNode("a")}, nil, testPod("p", requesting("3")),
			"0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"cpu taken", []*corev1.Node{testNode("a")}, map[string]*corev1.Pod{"a": testPod("o", requesting("1500m"))}, testPod("p", requesting("600m")),
			"0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"the emptier node", []*corev1.Node{testNode("a"), testNode("b")}, map[string]*corev1.Pod{"a": testPod("o", requesting("1"))}, testPod("p"), "b"},
		{"pod count", []*corev1.Node{testNode("a", func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("0") })}, nil, testPod("p"),
			"0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"reasons are counted", []*corev1.Node{testNode("a", tainted), testNode("b", tainted), testNode("c", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, nil, testPod("p"),
			"0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) had untolerated taint(s). preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."},
		{"tolerated", []*corev1.Node{testNode("a", tainted)}, nil, testPod("p", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
		}), "a"},
		{"selector", []*corev1.Node{testNode("a")}, nil, testPod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }),
			"0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{"port taken", []*corev1.Node{testNode("a")}, map[string]*corev1.Pod{"a": testPod("o", withPort(80, "10.0.0.1"))}, testPod("p", withPort(80, "")),
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"port of another address", []*corev1.Node{testNode("a")}, map[string]*corev1.Pod{"a": testPod("o", withPort(80, "10.0.0.1"))}, testPod("p", withPort(80, "10.0.0.2")), "a"},
		{"affinity to oneself", []*corev1.Node{testNode("a")}, nil, testPod("p", affine), "a"},
		{"affinity", []*corev1.Node{testNode("a"), testNode("b")}, map[string]*corev1.Pod{"a": testPod("o", requesting("1"))}, testPod("p", affine), "a"},
		{"affinity to nobody", []*corev1.Node{testNode("a")}, nil, testPod("p", affine, labelled("other")),
			"0/1 nodes are available: 1 node(s) didn't match pod affinity rules. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"anti-affinity", []*corev1.Node{testNode("a"), testNode("b")}, map[string]*corev1.Pod{"a": testPod("o")}, testPod("p", antiAffine), "b"},
		{"anti-affinity of the other", []*corev1.Node{testNode("a")}, map[string]*corev1.Pod{"a": testPod("o", antiAffine)}, testPod("p"),
			"0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"spread", []*corev1.Node{testNode("a"), testNode("b", tainted)}, map[string]*corev1.Pod{"a": testPod("o")}, testPod("p", spreading),
			"0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) had untolerated taint(s). " +
				"preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."},
		{"spread elsewhere", []*corev1.Node{testNode("a"), testNode("b")}, map[string]*corev1.Pod{"b": testPod("o")}, testPod("p", spreading), "a"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			s := &Scheduler{cluster: newCluster(func(string) map[string]string { return nil })}
			for node, pod := range tc.placed {
				s.cluster.place(newDemand(pod), node) // before the node: the order of events must not matter
			}
			for _, node := range tc.nodes {
				s.cluster.setNode(node)
			}
			state, failure := s.choose(newDemand(tc.pod))
			got := ""
			if failure != nil {
				got = failure.Error()
			} else {
				got = state.name
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestClusterForgetsWhatGoes(t *testing.T) {
	c := newCluster(func(string) map[string]string { return nil })
	c.setNode(testNode("a", func(n *corev1.Node) { n.Status.Images = []corev1.ContainerImage{{Names: []string{"i"}, SizeBytes: 1}} }))
	for i := range 3 {
		c.place(newDemand(testPod(fmt.Sprint(i), antiAffine, withPort(int32(80+i), ""), requesting("100m"))), "a")
	}
	if got := c.nodes["a"].requested.milliCPU; got != 300 {
		t.Errorf("requested %d, want 300", got)
	}
	c.removeNode("a")
	for i := range 3 {
		c.remove(types.UID(fmt.Sprint(i)))
	}
	if len(c.nodes)+len(c.order)+len(c.pods)+len(c.peers.holders)+len(c.imageNodes) != 0 {
		t.Errorf("left behind: %+v", c)
	}
}

// run starts a scheduler on a fake API server whose binding subresource works, inside a synctest bubble.
func run(t *testing.T, objects ...runtime.Object) (*fake.Clientset, *record.FakeRecorder) {
	client := fake.NewClientset(objects...)
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "binding" {
			return false, nil, nil
		}
		binding := action.(clienttesting.CreateAction).GetObject().(*corev1.Binding)
		obj, err := client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), binding.Namespace, binding.Name)
		if err != nil {
			return true, nil, err
		}
		pod := obj.(*corev1.Pod).DeepCopy()
		pod.Spec.NodeName = binding.Target.Name
		return true, binding, client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), pod, pod.Namespace)
	})
	factory := informers.NewSharedInformerFactory(client, 0)
	recorder := record.NewFakeRecorder(100)
	s, err := New(client, factory, recorder, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	factory.Start(ctx.Done())
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; factory.Shutdown() })
	return client, recorder
}

func nodeOf(t *testing.T, client *fake.Clientset, name string) *corev1.Pod {
	t.Helper()
	pod, err := client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func TestBindsAndExplains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, recorder := run(t, testNode("a"), testPod("fits"), testPod("large", requesting("1900m")), testPod("gated", func(p *corev1.Pod) {
			p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}}
		}))
		create := func(pod *corev1.Pod) {
			if _, err := client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		synctest.Wait()
		create(testPod("blocked", requesting("1")))
		for _, name := range []string{"fits", "large"} {
			if got := nodeOf(t, client, name).Spec.NodeName; got != "a" {
				t.Errorf("%s is on %q", name, got)
			}
		}
		if got := nodeOf(t, client, "gated").Spec.NodeName; got != "" {
			t.Errorf("gated pod is on %q", got)
		}
		conditions := nodeOf(t, client, "blocked").Status.Conditions
		if len(conditions) != 1 || conditions[0].Reason != corev1.PodReasonUnschedulable || !strings.HasPrefix(conditions[0].Message, "0/1 nodes are available: 1 Insufficient cpu.") {
			t.Errorf("conditions %+v", conditions)
		}
		if err := client.CoreV1().Pods("default").Delete(t.Context(), "large", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * minBackoff) // the bubble's clock: no real time passes
		synctest.Wait()
		if got := nodeOf(t, client, "blocked").Spec.NodeName; got != "a" {
			t.Errorf("blocked pod is on %q after room was made", got)
		}
		var events []string
		for len(recorder.Events) > 0 {
			events = append(events, <-recorder.Events)
		}
		for _, want := range []string{"Normal Scheduled Successfully assigned default/blocked to a", "Warning FailedScheduling 0/1 nodes are available: 1 Insufficient cpu."} {
			if !strings.Contains(strings.Join(events, "\n"), want) {
				t.Errorf("no event %q in %q", want, events)
			}
		}
	})
}

func TestPendingOrder(t *testing.T) {
	p := newPending()
	now := time.Now()
	low, high := int32(1), int32(2)
	add := func(name string, priority *int32, at time.Time) {
		p.add(newDemand(testPod(name, func(p *corev1.Pod) { p.Spec.Priority = priority })), at)
	}
	add("second", &low, now)
	add("third", &low, now.Add(time.Second))
	add("first", &high, now.Add(time.Minute))
	for _, want := range []string{"first", "second", "third"} {
		e, _ := p.next(now)
		if e == nil || e.demand.pod.Name != want {
			t.Fatalf("got %+v, want %s", e, want)
		}
		p.failed(e, byTaint, now)
	}
	p.event(byResource, now)
	if e, _ := p.next(now.Add(time.Hour)); e != nil {
		t.Errorf("%s moved for an event that cannot help it", e.demand.pod.Name)
	}
	p.event(byTaint, now)
	if e, wait := p.next(now); e != nil || wait != minBackoff {
		t.Errorf("got %v after %v, want a wait of %v", e, wait, minBackoff)
	}
	if e, _ := p.next(now.Add(minBackoff)); e == nil {
		t.Error("nothing to try after the backoff")
	}
}

func BenchmarkChoose(b *testing.B) {
	s := &Scheduler{cluster: newCluster(func(string) map[string]string { return nil })}
	for i := range 5000 {
		s.cluster.setNode(testNode(fmt.Sprint("n", i)))
	}
	i := 0
	for b.Loop() {
		d := newDemand(testPod(fmt.Sprint(i), requesting("1m")))
		state, failure := s.choose(d)
		if failure != nil {
			b.Fatal(failure)
		}
		s.cluster.place(d, state.name)
		i++
	}
}
