package datapath

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestHostPort: a port of the node leads to the pod that asks for it, from everywhere and with the client's address, until the
// pod is gone.
func TestHostPort(t *testing.T) {
	n := startNode(t)
	a, b := n.addPod(t, "a"), n.addPod(t, "b")
	ports := []corev1.ContainerPort{
		{ContainerPort: 8080, HostPort: 8088, Protocol: corev1.ProtocolTCP},
		{ContainerPort: 8080, HostPort: 8088, Protocol: corev1.ProtocolUDP},
	}
	pods := n.client.CoreV1().Pods("default")
	_, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a", UID: types.UID("uid-a")},
		Spec:       corev1.PodSpec{NodeName: "node-a", Containers: []corev1.Container{{Name: "c", Ports: ports}}},
		Status:     corev1.PodStatus{PodIP: a.address.String()},
	}, metav1.CreateOptions{})
	must(t, err)
	row := func(dump string) bool {
		return strings.Contains(dump, ":8088/TCP") && strings.Contains(dump, ":8088/UDP")
	}
	n.awaitDump(t, row)
	for _, network := range []string{"tcp4", "udp4"} {
		assertAnswer(t, nil, network, "192.0.2.1:8088", a)
		assertAnswer(t, b.ns, network, "192.0.2.1:8088", a)
		assertAnswer(t, a.ns, network, "192.0.2.1:8088", a)
		if saw := assertAnswer(t, outside, network, "192.0.2.1:8088", a); saw.String() == "192.0.2.1" {
			t.Errorf("%s: the pod saw the node instead of the client outside", network)
		}
		if namespacesTold(t) {
			assertAnswer(t, nil, network, "127.0.0.1:8088", a)
			if _, _, err := ask(t, b.ns, network, "127.0.0.1:8088"); err == nil {
				t.Errorf("%s: a pod's own loopback leads to the host port", network)
			}
		}
	}
	must(t, pods.Delete(t.Context(), "a", metav1.DeleteOptions{}))
	n.awaitDump(t, func(dump string) bool { return !strings.Contains(dump, ":8088/") })
}
