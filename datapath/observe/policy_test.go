package observe

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

func policyPod(name, app, ip string) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{NodeName: "here"},
		Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: ip}}},
	}
}

// webPolicies let clients reach web at port 80, and a network at any port but for a part of it.
func webPolicies() PolicyObjects {
	web := networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}
	port := intstr.FromInt32(80)
	clients, blocks := web, web
	clients.Ingress = []networkingv1.NetworkPolicyIngressRule{{
		From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "client"}}}},
		Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
	}}
	blocks.Ingress = []networkingv1.NetworkPolicyIngressRule{{
		From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "192.0.2.0/24", Except: []string{"192.0.2.64/26"}}}},
	}}
	return PolicyObjects{
		Pods:       []corev1.Pod{policyPod("web-1", "web", "10.244.0.2"), policyPod("client-1", "client", "10.244.0.9")},
		Namespaces: []corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "default"}}},
		Policies: []networkingv1.NetworkPolicy{
			{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "clients"}, Spec: clients},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "network"}, Spec: blocks},
		},
	}
}

func TestReadPolicy(t *testing.T) {
	m := filled(t)
	web, client := netip.MustParseAddr("10.244.0.2"), netip.MustParseAddr("10.244.0.9")
	must(t, m.PutEndpoint(desired.Endpoint{Address: web, IfIndex: 5}, bpfmap.EndpointPolicy{Ingress: 3}))
	must(t, m.PutIdentity(client, uint32(abi.PeerCount)))
	must(t, m.PutPorts(2, "TCP:80"))
	must(t, m.PutPolicy(bpfmap.PolicyKey{Set: 3, Peer: uint32(abi.PeerCount)}, 2))
	must(t, m.PutPolicy(bpfmap.PolicyKey{Set: 3, Block: netip.MustParsePrefix("192.0.2.0/24")}, uint32(abi.PortsAll)))
	except := bpfmap.PolicyKey{Set: 3, Block: netip.MustParsePrefix("192.0.2.64/26")}
	must(t, m.PutPolicy(except, uint32(abi.PortsNone)))

	p, err := ReadPolicy(m, webPolicies(), "default", "web-1")
	must(t, err)
	var text strings.Builder
	must(t, p.WriteText(&text))
	want := `pod default/web-1 on node here, 10.244.0.2

egress: not isolated, everything is allowed

ingress: isolated by clients, network; 10.244.0.2 has set 3
  PEER                  PORTS    ALLOWED BY
  default{app=client}   TCP:80   clients
  192.0.2.0/24          *        network
  192.0.2.64/26         none     -

the kernel has the same
`
	if text.String() != want {
		t.Errorf("got\n%s\nwant\n%s", text.String(), want)
	}

	for _, tt := range []struct {
		name   string
		change func() error
		want   string
	}{
		{"row lacks", func() error { return m.DeletePolicy(except) }, "10.244.0.2 ingress: set 3 has no row for 192.0.2.64/26 (want none)"},
		{"row of nobody", func() error { return m.PutPolicy(bpfmap.PolicyKey{Set: 3, Peer: 99}, 2) }, "10.244.0.2 ingress: set 3 allows TCP:80 to identity 99, the API does not"},
		{"other ports", func() error {
			return m.PutPolicy(bpfmap.PolicyKey{Set: 3, Peer: uint32(abi.PeerCount)}, uint32(abi.PortsAll))
		},
			"10.244.0.2 ingress: set 3 allows * to default{app=client}, want TCP:80"},
	} {
		must(t, tt.change())
		p, err := ReadPolicy(m, webPolicies(), "default", "web-1")
		must(t, err)
		if !slices.Contains(p.Differences, tt.want) {
			t.Errorf("%s: %q, want %q among them", tt.name, p.Differences, tt.want)
		}
	}
	if _, err := ReadPolicy(m, webPolicies(), "default", "nobody"); err == nil {
		t.Error("a pod that is not there has policies")
	}
}
