package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/datapath/podnet"
	"github.com/skep-io/skep/datapath/translate"
)

// denyTime is how long a test waits for an answer that must not come.
const denyTime = 100 * time.Millisecond

// labelled attaches a pod with labels, which the API knows too.
func (n *node) labelled(t testing.TB, name string, labels map[string]string) *os.File {
	t.Helper()
	object := n.podObject(t, name, labels)
	a, err := n.Attach(t.Context(), podnet.Pod{UID: "uid-" + name, Namespace: "default", Name: name, Identity: translate.Identity(object)})
	must(t, err)
	ns, err := os.Open(a.NetNS)
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	in(t, ns, awaitRunning)
	return ns
}

// podObject makes the API's object of a pod of this node.
func (n *node) podObject(t testing.TB, name string, labels map[string]string) *corev1.Pod {
	t.Helper()
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: labels, UID: types.UID("uid-" + name)},
		Spec:       corev1.PodSpec{NodeName: n.cfg.NodeName},
	}
	_, err := n.client.CoreV1().Pods("default").Create(t.Context(), object, metav1.CreateOptions{})
	must(t, err)
	return object
}

// awaitRunning waits until the kernel lets the device of a pod send: it says so a little after the device is up, and drops what
// comes before, which no process of a container is quick enough to see.
func awaitRunning() error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		l, err := net.InterfaceByName("eth0")
		if err != nil || l.Flags&net.FlagRunning != 0 {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("eth0 never ran")
		}
		time.Sleep(time.Millisecond)
	}
}

// answers says whether a single datagram is answered.
func answers(t testing.TB, from *os.File, address string, wait time.Duration) (answered bool) {
	t.Helper()
	in(t, from, func() error {
		c, err := net.Dial("udp4", address)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 100))
		answered = err == nil
		return nil
	})
	return answered
}

func networkPolicy(name string, spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: spec}
}

// await asks until the answer is as wanted: news from the API take a moment.
func await(t testing.TB, from *os.File, address string, want bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for answers(t, from, address, denyTime) != want {
		if time.Now().After(deadline) {
			t.Fatalf("%s: answers=%t never came", address, want)
		}
	}
}

// firstPods is how many pods TestPolicyFromTheFirstPacket starts; SKEP_FIRST_PODS sets it.
func firstPods(t *testing.T) int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("SKEP_FIRST_PODS"), "100"))
	must(t, err)
	return n
}

// TestPolicyFromTheFirstPacket starts pods under default deny: each is let through or not from its first datagram on, which is the
// only one that it sends.
func TestPolicyFromTheFirstPacket(t *testing.T) {
	n := startNode(t)
	server := n.addPod(t, "server")
	n.podObject(t, "server", nil)
	address := fmt.Sprintf("%s:8080", server.address)
	bystander := n.labelled(t, "bystander", nil)
	await(t, bystander, address, true)
	policies := n.client.NetworkingV1().NetworkPolicies("default")
	both := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	_, err := policies.Create(t.Context(), networkPolicy("deny", networkingv1.NetworkPolicySpec{PolicyTypes: both}), metav1.CreateOptions{})
	must(t, err)
	friends := metav1.LabelSelector{MatchLabels: map[string]string{"role": "friend"}}
	allow := networkPolicy("friends", networkingv1.NetworkPolicySpec{
		PolicyTypes: both,
		Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &friends}}}},
		Egress:      []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}},
	})
	allow, err = policies.Create(t.Context(), allow, metav1.CreateOptions{})
	must(t, err)
	await(t, bystander, address, false)
	wrong := map[bool]int{} // by whether it was to be let through
	pods := firstPods(t)
	for i := range pods {
		name, labels := fmt.Sprintf("pod%d", i), map[string]string{"role": "foe"}
		friend, wait := i%2 == 0, denyTime/2
		if friend {
			labels["role"], wait = "friend", 5*time.Second
		}
		if answers(t, n.labelled(t, name, labels), address, wait) != friend {
			wrong[friend]++
		}
		must(t, n.Detach(t.Context(), "uid-"+name))
	}
	if len(wrong) > 0 {
		t.Errorf("of %d pods, half of which may: %d that may were not let through with their first packet, and %d that may not were", pods, wrong[true], wrong[false])
	}
	// The node still reaches its pods, and an edited policy cuts what it no longer allows.
	if !answers(t, nil, address, time.Second) {
		t.Error("the node does not reach its pod")
	}
	friend := n.labelled(t, "last", map[string]string{"role": "friend"})
	await(t, friend, address, true)
	allow.Spec.Ingress = nil
	_, err = policies.Update(t.Context(), allow, metav1.UpdateOptions{})
	must(t, err)
	await(t, friend, address, false)
	n.Close()
	n.start(t)
	await(t, friend, address, false)
	for _, name := range []string{"deny", "friends"} {
		must(t, policies.Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	await(t, bystander, address, true)
}
