package api

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// ingressFrom is a policy with one ingress rule.
func ingressFrom(rule networkingv1.NetworkPolicyIngressRule) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{rule}}}
	defaultNetworkPolicy(p)
	return p
}

func fromBlock(cidr string, except ...string) *networkingv1.NetworkPolicy {
	return ingressFrom(networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: except}}}})
}

func onPort(p networkingv1.NetworkPolicyPort) *networkingv1.NetworkPolicy {
	return ingressFrom(networkingv1.NetworkPolicyIngressRule{Ports: []networkingv1.NetworkPolicyPort{p}})
}

func TestDefaultNetworkPolicy(t *testing.T) {
	for _, c := range []struct {
		name string
		spec networkingv1.NetworkPolicySpec
		want []networkingv1.PolicyType
	}{
		{"no rules", networkingv1.NetworkPolicySpec{}, []networkingv1.PolicyType{"Ingress"}},
		{"egress rules", networkingv1.NetworkPolicySpec{Egress: []networkingv1.NetworkPolicyEgressRule{{}}}, []networkingv1.PolicyType{"Ingress", "Egress"}},
		{"set", networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Egress"}}, []networkingv1.PolicyType{"Egress"}},
	} {
		p := &networkingv1.NetworkPolicy{Spec: c.spec}
		defaultNetworkPolicy(p)
		if !reflect.DeepEqual(p.Spec.PolicyTypes, c.want) {
			t.Errorf("%s: %v", c.name, p.Spec.PolicyTypes)
		}
	}
	if p := onPort(networkingv1.NetworkPolicyPort{}); *p.Spec.Ingress[0].Ports[0].Protocol != corev1.ProtocolTCP {
		t.Error("a port without a protocol is not TCP")
	}
}

func TestValidateNetworkPolicy(t *testing.T) {
	port := func(n int) *intstr.IntOrString { return ptr.To(intstr.FromInt(n)) }
	for _, c := range []struct {
		name   string
		policy *networkingv1.NetworkPolicy
		want   []string
	}{
		{"nothing", ingressFrom(networkingv1.NetworkPolicyIngressRule{}), nil},
		{"range of ports", onPort(networkingv1.NetworkPolicyPort{Port: port(80), EndPort: ptr.To[int32](90)}), nil},
		{"port", onPort(networkingv1.NetworkPolicyPort{Port: port(65536)}),
			[]string{"spec.ingress[0].ports[0].port: Invalid value: 65536: must be between 1 and 65535, inclusive"}},
		{"protocol", onPort(networkingv1.NetworkPolicyPort{Protocol: ptr.To[corev1.Protocol]("ICMP")}),
			[]string{`spec.ingress[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"`}},
		{"end before start", onPort(networkingv1.NetworkPolicyPort{Port: port(80), EndPort: ptr.To[int32](79)}),
			[]string{"spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to `port`"}},
		{"end of a name", onPort(networkingv1.NetworkPolicyPort{Port: ptr.To(intstr.FromString("http")), EndPort: ptr.To[int32](79)}),
			[]string{"spec.ingress[0].ports[0].endPort: Invalid value: 79: may not be specified when `port` is non-numeric"}},
		{"end alone", onPort(networkingv1.NetworkPolicyPort{EndPort: ptr.To[int32](79)}),
			[]string{"spec.ingress[0].ports[0].endPort: Invalid value: 79: may not be specified when `port` is not specified"}},
		{"no peer", ingressFrom(networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{{}}}),
			[]string{"spec.ingress[0].from[0]: Required value: must specify a peer"}},
		{"two peers", ingressFrom(networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}, IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8"}}}}),
			[]string{"spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"}},
		{"block", fromBlock("10.0.0.0/8", "10.1.0.0/16"), nil},
		{"empty block", fromBlock(""), []string{"spec.ingress[0].from[0].ipBlock.cidr: Required value"}},
		{"no block", fromBlock("10.0.0.0"), []string{`spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`}},
		{"except outside", fromBlock("10.0.0.0/8", "11.0.0.0/16"), []string{"spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"}},
		{"except all", fromBlock("10.0.0.0/8", "10.0.0.0/8"), []string{"spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`"}},
		{"types", &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"X"}}},
			[]string{`spec.policyTypes[0]: Unsupported value: "X": supported values: "Ingress", "Egress"`}},
		{"selector", &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In"}}}}},
			[]string{"spec.podSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			errorTexts(t, policyCheck{}.spec(&c.policy.Spec), c.want...)
		})
	}
}

// A range that is stored may stay, one that is new must be written in full.
func TestStoredRangesStay(t *testing.T) {
	old := fromBlock("010.0.0.0/8")
	if errs := validateNetworkPolicyUpdate(old.DeepCopy(), old); len(errs) > 0 {
		t.Error(errs)
	}
	var errs field.ErrorList = policyCheck{}.spec(&old.Spec)
	if len(errs) != 1 {
		t.Errorf("a new range with a leading zero: %v", errs)
	}
	if w := networkPolicyWarnings(fromBlock("10.0.0.1/8")); len(w) != 1 {
		t.Errorf("warnings %q", w)
	}
}
