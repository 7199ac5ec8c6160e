package cluster

import (
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func indexedPod(name, ns, node string, phase corev1.PodPhase, host bool, ips ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns, UID: types.UID(ns + "/" + name)},
		Spec: corev1.PodSpec{NodeName: node, HostNetwork: host}, Status: corev1.PodStatus{Phase: phase}}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

func TestPodIndexKnowsPodsOfAllNodes(t *testing.T) {
	client := fake.NewClientset(
		indexedPod("here", "a", "node-1", corev1.PodRunning, false, "10.0.0.1", "fd00::1"),
		indexedPod("there", "b", "node-2", corev1.PodRunning, false, "10.0.1.1"),
		indexedPod("ended", "b", "node-2", corev1.PodSucceeded, false, "10.0.1.2"),
		indexedPod("host", "b", "node-2", corev1.PodRunning, true, "192.0.2.1"),
	)
	factory := informers.NewSharedInformerFactory(client, 0)
	index, err := NewPodIndex(factory)
	if err != nil {
		t.Fatal(err)
	}
	if index.Synced() {
		t.Error("synced before it began")
	}
	factory.Start(t.Context().Done())
	t.Cleanup(factory.Shutdown) // the context has ended by then
	for deadline := time.Now().Add(10 * time.Second); !index.Synced(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the index does not sync")
		}
	}
	for addr, want := range map[string]string{"10.0.0.1": "a", "fd00::1": "a", "10.0.1.1": "b", "10.0.1.2": "", "192.0.2.1": "", "10.9.9.9": ""} {
		if got := index.Namespace(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is of namespace %q, want %q", addr, got, want)
		}
	}
	if a := netip.MustParseAddr("10.0.1.1"); !index.HasPod("b", a) || index.HasPod("a", a) || index.HasPod("", netip.MustParseAddr("10.9.9.9")) {
		t.Error("HasPod mistakes the namespace")
	}
}

// TestPodIndexAddressMovesOn: the next owner of an address may be seen before the last one's end.
func TestPodIndexAddressMovesOn(t *testing.T) {
	index := &PodIndex{byAddr: map[netip.Addr]podRef{}}
	addr := netip.MustParseAddr("10.0.0.1")
	old, next := indexedPod("old", "a", "n", corev1.PodRunning, false, "10.0.0.1"), indexedPod("next", "b", "n", corev1.PodRunning, false, "10.0.0.1")
	index.changed(old, true)
	index.changed(next, true)
	index.changed(old, false)
	if got := index.Namespace(addr); got != "b" {
		t.Errorf("the address is of namespace %q, not of its next owner", got)
	}
	index.changed(next, false)
	if got := index.Namespace(addr); got != "" {
		t.Errorf("the address is of namespace %q though nobody has it", got)
	}
}
