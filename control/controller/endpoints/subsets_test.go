package endpoints

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pod(name, ip string, ready bool, portNumber int32) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: portNumber}}}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}, {IP: "fd00::" + name}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}},
		},
	}
}

func TestSubsets(t *testing.T) {
	named := corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("web")}}}
	plain := corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}}
	published, six := plain, plain
	published.PublishNotReadyAddresses = true
	six.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
	cases := []struct {
		name string
		spec corev1.ServiceSpec
		pods []*corev1.Pod
		want string
	}{
		{"none", plain, nil, ""},
		{"ready and not", plain, []*corev1.Pod{pod("2", "10.0.0.2", true, 1), pod("1", "10.0.0.1", true, 1), pod("3", "10.0.0.3", false, 1)},
			"ports 80 ready 10.0.0.1 10.0.0.2 not 10.0.0.3;"},
		{"published all the same", published, []*corev1.Pod{pod("3", "10.0.0.3", false, 1)}, "ports 80 ready 10.0.0.3 not;"},
		{"a name of two numbers", named, []*corev1.Pod{pod("1", "10.0.0.1", true, 8080), pod("2", "10.0.0.2", true, 9090)},
			"ports 8080 ready 10.0.0.1 not;ports 9090 ready 10.0.0.2 not;"},
		{"no address yet", plain, []*corev1.Pod{pod("1", "", false, 1)}, ""},
		{"the other family", six, []*corev1.Pod{pod("1", "10.0.0.1", true, 1)}, "ports 80 ready fd00::1 not;"},
		{"headless without ports", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}, []*corev1.Pod{pod("1", "10.0.0.1", true, 1)}, "ports ready 10.0.0.1 not;"},
	}
	for _, tc := range cases {
		for _, p := range tc.pods {
			if p.Status.PodIP == "" {
				p.Status.PodIPs = nil
			}
		}
		got := ""
		for _, subset := range subsets(&corev1.Service{Spec: tc.spec}, tc.pods) {
			got += "ports"
			for _, port := range subset.Ports {
				got += fmt.Sprintf(" %d", port.Port)
			}
			got += " ready"
			for _, address := range subset.Addresses {
				got += " " + address.IP
			}
			got += " not"
			for _, address := range subset.NotReadyAddresses {
				got += " " + address.IP
			}
			got += ";"
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}
