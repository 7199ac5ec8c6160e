package translate

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestHostPorts: which ports of the node lead to a pod.
func TestHostPorts(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	for _, test := range []struct {
		name  string
		alter func(*corev1.Pod)
		want  []string
	}{
		{"both families", func(*corev1.Pod) {}, []string{
			"0.0.0.0:8080 TCP 10.244.0.5:80", "[::]:8080 TCP [fd00:244::5]:80",
		}},
		{"host IP", func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].HostIP = "127.0.0.1" }, []string{
			"127.0.0.1:8080 TCP 10.244.0.5:80",
		}},
		{"any IPv6", func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].HostIP = "::" }, []string{
			"[::]:8080 TCP [fd00:244::5]:80",
		}},
		{"protocols of one number", func(p *corev1.Pod) {
			p.Status.PodIPs = nil
			p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{HostPort: 8080, ContainerPort: 81, Protocol: corev1.ProtocolUDP})
		}, []string{"0.0.0.0:8080 TCP 10.244.0.5:80", "0.0.0.0:8080 UDP 10.244.0.5:81"}},
		{"sidecar", func(p *corev1.Pod) {
			p.Status.PodIPs = nil
			p.Spec.InitContainers, p.Spec.Containers = p.Spec.Containers, nil
			p.Spec.InitContainers[0].RestartPolicy = &always
		}, []string{"0.0.0.0:8080 TCP 10.244.0.5:80"}},
		{"init container", func(p *corev1.Pod) { p.Spec.InitContainers, p.Spec.Containers = p.Spec.Containers, nil }, nil},
		{"no address yet", func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }, nil},
		{"host network", func(p *corev1.Pod) { p.Spec.HostNetwork = true }, nil},
		{"ended", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, nil},
		{"no host port", func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].HostPort = 0 }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
					{ContainerPort: 80, HostPort: 8080, Protocol: corev1.ProtocolTCP}, {ContainerPort: 90},
				}}}},
				Status: corev1.PodStatus{PodIP: "10.244.0.5", PodIPs: []corev1.PodIP{{IP: "10.244.0.5"}, {IP: "fd00:244::5"}}},
			}
			test.alter(pod)
			rows := HostPorts(pod)
			if len(rows) != len(test.want) {
				t.Fatalf("got %v, want %v", rows, test.want)
			}
			for i, row := range rows {
				f := row.Frontends[0]
				got := f.Address.String() + " " + f.Protocol.String() + " " + row.Backends[0].Address.String()
				if got != test.want[i] {
					t.Errorf("got %s, want %s", got, test.want[i])
				}
			}
		})
	}
}
