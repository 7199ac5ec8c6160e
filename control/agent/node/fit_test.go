package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func asking(cpu string, port int32) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Ports:     []corev1.ContainerPort{{ContainerPort: 80, HostPort: port, Protocol: corev1.ProtocolTCP}},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
	}}}}
}

func TestFit(t *testing.T) {
	allocatable := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourcePods: resource.MustParse("2")}
	selective := asking("0", 0)
	selective.Spec.NodeSelector = map[string]string{"disk": "fast"}
	for _, row := range []struct {
		name    string
		pod     *corev1.Pod
		running []*corev1.Pod
		want    string
	}{
		{"fits", asking("1", 0), nil, ""},
		{"too large", asking("1100m", 0), nil, "OutOfcpu"},
		{"too large beside another", asking("600m", 0), []*corev1.Pod{asking("500m", 0)}, "OutOfcpu"},
		{"exactly fits beside another", asking("500m", 0), []*corev1.Pod{asking("500m", 0)}, ""},
		{"too many", asking("0", 0), []*corev1.Pod{asking("0", 0), asking("0", 0)}, "OutOfpods"},
		{"port taken", asking("0", 8080), []*corev1.Pod{asking("0", 8080)}, "NodePorts"},
		{"another port", asking("0", 8081), []*corev1.Pod{asking("0", 8080)}, ""},
		{"wrong node", selective, nil, "NodeAffinity"},
	} {
		got := ""
		if r := Fit(&corev1.Node{}, allocatable, row.pod, row.running); r != nil {
			got = r.Reason
		}
		if got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}
