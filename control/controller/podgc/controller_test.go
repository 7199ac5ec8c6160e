package podgc

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func ended(name string, age int64, reason string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1000-age, 0))},
		Status:     corev1.PodStatus{Phase: corev1.PodFailed, Reason: reason},
	}
}

func TestSurplus(t *testing.T) {
	running := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	pods := []*corev1.Pod{ended("young", 1, ""), ended("old", 9, ""), running, ended("evicted", 0, "Evicted")}
	for threshold, want := range map[int]string{0: "[]", 1: "[evicted old]", 2: "[evicted]", 3: "[]"} {
		got := []string{}
		for _, pod := range surplus(pods, threshold) {
			got = append(got, pod.Name)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("threshold %d: got %v, want %s", threshold, got, want)
		}
	}
}

func TestGoneNodesAreQuarantined(t *testing.T) {
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	if err := nodes.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}}); err != nil {
		t.Fatal(err)
	}
	c := &Controller{nodes: corelisters.NewNodeLister(nodes), missing: map[string]time.Time{}}
	pods := []*corev1.Pod{{Spec: corev1.PodSpec{NodeName: "here"}}, {Spec: corev1.PodSpec{NodeName: "lost"}}, {}}
	start := time.Unix(1000, 0)
	if gone, wait := c.goneNodes(pods, start); gone["lost"] || wait != quarantine {
		t.Errorf("at first: gone %v, wait %v", gone, wait)
	}
	if gone, wait := c.goneNodes(pods, start.Add(quarantine)); !gone["lost"] || gone["here"] || gone[""] || wait != 0 {
		t.Errorf("after the quarantine: gone %v, wait %v", gone, wait)
	}
}
