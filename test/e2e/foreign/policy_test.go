package foreign

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// isolate lets nobody but one pod to another.
func (n *foreignNode) isolate(t *testing.T, pod, from string) {
	t.Helper()
	_, err := n.client.NetworkingV1().NetworkPolicies("default").Create(t.Context(), &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: pod},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": pod}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
				PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": from}},
			}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// firstPackets checks that the first packet to a new pod meets its policy: the runtime has just said that the sandbox runs.
func (n *foreignNode) firstPackets(t *testing.T, web, client sandbox) {
	n.isolate(t, "vault", "client")
	vault := n.start(t, podNamed("vault", 0))
	// Nobody may listen yet, but a refusal would mean that the packet came in.
	denied := func() {
		t.Helper()
		if out, err := web.call("http://"+vault.ip+":8080/", "--timeout", "500ms"); err == nil || strings.Contains(out, "refused") {
			t.Errorf("the policy lets everybody in: %v %s", err, out)
		}
	}
	denied()
	must(t)(client.call("http://"+vault.ip+":8080/", "--wait", "10s"))
	denied()
}
