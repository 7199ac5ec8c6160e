package node

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRanges(t *testing.T) {
	r, err := newRanges(netip.MustParsePrefix("10.244.0.0/22"), 24)
	if err != nil {
		t.Fatal(err)
	}
	// After a restart the ranges in use come from the Node objects, in any order.
	if other := r.hold("b", netip.MustParsePrefix("10.244.1.0/24")); other != "" {
		t.Errorf("taken by %s", other)
	}
	if other := r.hold("c", netip.MustParsePrefix("10.244.1.0/24")); other != "b" {
		t.Errorf("the clash with b is reported as %q", other)
	}
	for _, step := range []struct{ node, want string }{
		{"a", "10.244.0.0/24"}, {"a", "10.244.0.0/24"}, {"b", "10.244.1.0/24"}, {"c", "10.244.2.0/24"}, {"d", "10.244.3.0/24"},
	} {
		if got, err := r.allocate(step.node); err != nil || got.String() != step.want {
			t.Errorf("%s: got %v, %v, want %s", step.node, got, err, step.want)
		}
	}
	if _, err := r.allocate("e"); err == nil {
		t.Error("a fifth range out of four")
	}
	r.release("b")
	if got, err := r.allocate("e"); err != nil || got.String() != "10.244.1.0/24" {
		t.Errorf("the freed range: got %v, %v", got, err)
	}
	if got := following(netip.MustParsePrefix("fd00:0:0:ffff::/64")); got.String() != "fd00:0:1::/64" {
		t.Errorf("after fd00:0:0:ffff::/64 comes %s", got)
	}
	if got := following(netip.MustParsePrefix("255.255.255.0/24")); got.IsValid() {
		t.Errorf("after the last range comes %s", got)
	}
}

func node(ready corev1.ConditionStatus, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
	for _, apply := range change {
		apply(n)
	}
	return n
}

func TestTaints(t *testing.T) {
	now := metav1.NewTime(time.Unix(1000, 0))
	before := metav1.NewTime(time.Unix(10, 0))
	foreign := corev1.Taint{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}
	cases := []struct {
		name string
		node *corev1.Node
		want string
	}{
		{"ready", node(corev1.ConditionTrue), "[]"},
		{"not ready", node(corev1.ConditionFalse), "[node.kubernetes.io/not-ready:NoSchedule@1000 node.kubernetes.io/not-ready:NoExecute@1000]"},
		{"unreachable after not ready", node(corev1.ConditionUnknown, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute, TimeAdded: &before}}
		}), "[node.kubernetes.io/unreachable:NoSchedule@1000 node.kubernetes.io/unreachable:NoExecute@1000]"},
		{"the time of a standing taint stays", node(corev1.ConditionUnknown, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &before}}
		}), "[node.kubernetes.io/unreachable:NoSchedule@1000 node.kubernetes.io/unreachable:NoExecute@10]"},
		{"foreign and cordoned", node(corev1.ConditionTrue, func(n *corev1.Node) { n.Spec.Taints, n.Spec.Unschedulable = []corev1.Taint{foreign}, true }),
			"[k:NoSchedule@0 node.kubernetes.io/unschedulable:NoSchedule@1000]"},
		{"pressure over", node(corev1.ConditionTrue, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule}}
		}), "[]"},
	}
	for _, tc := range cases {
		got := []string{}
		for _, taint := range taints(tc.node, now) {
			var at int64
			if taint.TimeAdded != nil {
				at = taint.TimeAdded.Unix()
			}
			got = append(got, fmt.Sprintf("%s:%s@%d", taint.Key, taint.Effect, at))
		}
		if fmt.Sprint(got) != tc.want {
			t.Errorf("%s: got %v, want %s", tc.name, got, tc.want)
		}
	}
}

func TestEvictAt(t *testing.T) {
	added := metav1.NewTime(time.Unix(1000, 0))
	now := time.Unix(1100, 0)
	seconds := func(s int64) *int64 { return &s }
	taint := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &added}
	cases := []struct {
		name        string
		tolerations []corev1.Toleration
		taints      []corev1.Taint
		leave       bool
		at          int64
	}{
		{"not tolerated", nil, []corev1.Taint{taint}, true, 1100},
		{"for ever", []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, []corev1.Taint{taint}, false, 0},
		{"for a while", []corev1.Toleration{{Key: taint.Key, Operator: corev1.TolerationOpExists, TolerationSeconds: seconds(300)}}, []corev1.Taint{taint}, true, 1300},
		{"the shortest counts", []corev1.Toleration{
			{Operator: corev1.TolerationOpExists, TolerationSeconds: seconds(300)}, {Operator: corev1.TolerationOpExists, TolerationSeconds: seconds(200)},
		}, []corev1.Taint{taint}, true, 1200},
		{"another effect", nil, []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}, false, 0},
		{"another value", []corev1.Toleration{{Key: taint.Key, Value: "x", TolerationSeconds: seconds(300)}}, []corev1.Taint{taint}, true, 1100},
	}
	for _, tc := range cases {
		at, leave := evictAt(tc.taints, tc.tolerations, now)
		if leave != tc.leave || leave && at.Unix() != tc.at {
			t.Errorf("%s: got %v, %v", tc.name, at.Unix(), leave)
		}
	}
}
