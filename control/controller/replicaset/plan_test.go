package replicaset

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var now = metav1.NewTime(time.Unix(100000, 0))

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

// pod is a running pod, ready for an hour, on a node of its own.
func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: ago(2 * time.Hour), Labels: map[string]string{"app": "a"}},
		Spec:       corev1.PodSpec{NodeName: "node-" + name},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: ago(time.Hour)},
		}},
	}
	for _, apply := range change {
		apply(p)
	}
	return p
}

func unready(p *corev1.Pod)  { p.Status.Conditions = nil }
func pending(p *corev1.Pod)  { p.Status.Phase = corev1.PodPending }
func unplaced(p *corev1.Pod) { p.Spec.NodeName = "" }
func cheap(p *corev1.Pod)    { p.Annotations = map[string]string{corev1.PodDeletionCost: "-5"} }
func young(p *corev1.Pod)    { p.CreationTimestamp = ago(time.Minute) }
func lately(p *corev1.Pod)   { p.Status.Conditions[0].LastTransitionTime = ago(time.Minute) }
func restarted(p *corev1.Pod) {
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 7}}
}
func ended(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
func going(p *corev1.Pod) { p.DeletionTimestamp = &now }
func on(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeName = node }
}

func TestVictims(t *testing.T) {
	// The order of deletion: each rule beats all that follow.
	pods := []*corev1.Pod{
		pod("old"), pod("young", young), pod("restarted", restarted), pod("lately", lately), pod("cheap", cheap),
		pod("unready", unready), pod("pending", pending), pod("unplaced", unplaced),
	}
	var got []string
	for _, victim := range victims(pods, pods, len(pods)-1, now.Time) {
		got = append(got, victim.Name)
	}
	want := []string{"unplaced", "pending", "unready", "cheap", "lately", "restarted", "young"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestVictimsAreSpread(t *testing.T) {
	pods := []*corev1.Pod{pod("alone", young), pod("a", on("full")), pod("b", on("full"))}
	if got := victims(pods, pods, 1, now.Time)[0].Spec.NodeName; got != "full" {
		t.Errorf("the first to go is on %s, not on the fuller node", got)
	}
}

func TestPlan(t *testing.T) {
	many := make([]*corev1.Pod, 700)
	for i := range many {
		many[i] = pod(fmt.Sprint(i))
	}
	cases := []struct {
		name           string
		wanted         int32
		active         []*corev1.Pod
		create, remove int
	}{
		{"right", 2, many[:2], 0, 0},
		{"too few", 5, many[:2], 3, 0},
		{"too many", 1, many[:3], 0, 2},
		{"burst up", 1000, nil, burst, 0},
		{"burst down", 0, many, 0, burst},
	}
	for _, tc := range cases {
		got := plan(tc.wanted, tc.active, tc.active, now.Time)
		if got.create != tc.create || len(got.remove) != tc.remove {
			t.Errorf("%s: create %d, remove %d", tc.name, got.create, len(got.remove))
		}
	}
}

func TestStatus(t *testing.T) {
	replicas := int32(4)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "rs", Generation: 3},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, MinReadySeconds: 100, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}},
		}},
	}
	owned := []*corev1.Pod{pod("available"), pod("ready", lately), pod("unready", unready), pod("ended", ended), pod("going", going)}
	got, wait := status(rs, owned, -1, errors.New("no"), now)
	if got.ObservedGeneration != 3 || got.Replicas != 3 || got.FullyLabeledReplicas != 3 || got.ReadyReplicas != 2 || got.AvailableReplicas != 1 || *got.TerminatingReplicas != 1 {
		t.Errorf("%+v", got)
	}
	if wait != 40*time.Second {
		t.Errorf("the next pod is available in %v, want 40s", wait)
	}
	if len(got.Conditions) != 1 || got.Conditions[0].Reason != "FailedCreate" || got.Conditions[0].Message != "no" {
		t.Errorf("conditions %+v", got.Conditions)
	}
	rs.Status = got
	if got, _ = status(rs, owned, -1, nil, now); len(got.Conditions) != 0 {
		t.Errorf("conditions after the failure is over: %+v", got.Conditions)
	}
}
