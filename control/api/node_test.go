package api

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestNodeDefaults(t *testing.T) {
	n := &corev1.Node{}
	n.Spec.PodCIDR = "10.0.0.0/24"
	n.Status.Capacity = corev1.ResourceList{"cpu": resource.MustParse("1500u")}
	defaultNode(n)
	if len(n.Spec.PodCIDRs) != 1 || n.Status.Allocatable.Cpu().String() != "2m" {
		t.Errorf("defaulted %+v %+v", n.Spec, n.Status)
	}
	n = &corev1.Node{}
	n.Spec.PodCIDRs = []string{"10.0.1.0/24", "fd00::/64"}
	defaultNode(n)
	if n.Spec.PodCIDR != "10.0.1.0/24" {
		t.Errorf("podCIDR %q", n.Spec.PodCIDR)
	}
}

func TestValidateNode(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*corev1.Node)
		want   []string
	}{
		{"valid", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.0.0.0/24", "fd00::/64"} }, nil},
		{"CIDRs of one family", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.0.0.0/24", "10.0.1.0/24"} },
			[]string{`spec.podCIDRs: Invalid value: ["10.0.0.0/24","10.0.1.0/24"]: may specify no more than one CIDR for each IP family`}},
		{"taint effect", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "a", Effect: "X"}} },
			[]string{`metadata.taints[0].effect: Unsupported value: "X": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`}},
		{"no taint effect", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "a"}} },
			[]string{"metadata.taints[0].effect: Required value"}},
		{"taint twice", func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "a", Value: "1", Effect: "NoExecute"}, {Key: "a", Value: "2", Effect: "NoExecute"}}
		}, []string{`metadata.taints[1]: Duplicate value: {"key":"a","value":"2","effect":"NoExecute"}: taints must be unique by key and effect pair`}},
		{"pods in pieces", func(n *corev1.Node) { n.Status.Capacity = corev1.ResourceList{"pods": resource.MustParse("1500m")} },
			[]string{`status.capacity.pods: Invalid value: "1500m": must be an integer`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &corev1.Node{}
			c.change(n)
			errs := validateNode(n)
			errorTexts(t, errs, c.want...)
		})
	}
}

func TestValidateNodeUpdate(t *testing.T) {
	old := &corev1.Node{}
	old.Spec.PodCIDRs, old.Spec.ProviderID = []string{"10.0.0.0/24"}, "a"
	n := old.DeepCopy()
	n.Spec.PodCIDRs, n.Spec.ProviderID = []string{"10.0.1.0/24"}, ""
	n.Status.Addresses = []corev1.NodeAddress{{Type: "InternalIP", Address: "10.0.0.1"}, {Type: "InternalIP", Address: "10.0.0.1"}}
	errorTexts(t, validateNodeUpdate(n, old),
		`status.addresses[1]: Duplicate value: {"type":"InternalIP","address":"10.0.0.1"}`,
		`spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`,
		"spec.providerID: Invalid value: null: field cannot be cleared once set")
}
