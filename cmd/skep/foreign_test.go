package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

const kubeadmText = `apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
networking:
  dnsDomain: cluster.local
  podSubnet: 10.244.0.0/16,fd00:10:244::/56
  serviceSubnet: 10.96.0.0/12
`

func TestToldRanges(t *testing.T) {
	kubeadm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kubeadm-config"}, Data: map[string]string{"ClusterConfiguration": kubeadmText}}
	services := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.97.0.0/16"}}}
	client := fake.NewClientset()
	if r, err := toldRanges(t.Context(), client); err != nil || r.pods != nil || r.services != nil {
		t.Errorf("a cluster that tells nothing: %v %v", r, err)
	}
	client = fake.NewClientset(kubeadm)
	if r, err := toldRanges(t.Context(), client); err != nil || commas(r.pods) != "10.244.0.0/16,fd00:10:244::/56" || commas(r.services) != "10.96.0.0/12" {
		t.Errorf("kubeadm: %v %v", r, err)
	}
	client = fake.NewClientset(kubeadm, services)
	if r, err := toldRanges(t.Context(), client); err != nil || commas(r.services) != "10.97.0.0/16" {
		t.Errorf("ServiceCIDR: %v %v", r, err)
	}
}

func TestInternalIPs(t *testing.T) {
	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "worker"}, {Type: corev1.NodeExternalIP, Address: "203.0.113.1"},
		{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.2"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::1"},
	}}}
	if got := commas(internalIPs(node)); got != "192.0.2.1,2001:db8::1" {
		t.Errorf("internal addresses %s", got)
	}
}

// A detached agent is told by flags what this one was told.
func TestForeignFlags(t *testing.T) {
	o := newStartOptions(role{command: "agent", agent: true})
	given := []string{"--network-only", "--kubeconfig", "/k", "--node-name", "w", "--node-ip", "2001:db8::1,192.0.2.1", "--service-cidr", "10.96.0.0/12",
		"--pod-cidr", "10.244.0.0/16", "--cluster-dns", "10.96.0.10,fd00::a", "--cluster-domain", "example.org", "--cni-conf-dir", "/c", "--tunnel", "always"}
	for range 2 {
		cmd := agentCommandOf(o)
		if err := cmd.ParseFlags(given); err != nil {
			t.Fatal(err)
		}
		if err := o.parse(); err != nil {
			t.Fatal(err)
		}
		f := o.node.foreign
		if f.kubeconfig != "/k" || commas(f.dns) != "10.96.0.10,fd00::a" || commas(f.podCIDRs) != "10.244.0.0/16" || commas(f.serviceCIDRs) != "10.96.0.0/12" ||
			f.confDir != "/c" || o.node.domain != "example.org" || o.node.tunnel != "always" || o.node.name != "w" || commas(o.node.ips) != "2001:db8::1,192.0.2.1" {
			t.Errorf("%+v %+v", o.node, f)
		}
		given = o.node.args()
		o = newStartOptions(role{command: "agent", agent: true})
	}
}

// The manifest is one that an API server takes, and asks for what there is.
func TestManifest(t *testing.T) {
	data, err := os.ReadFile("../../deploy/network-only.yaml")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]func() any{
		"ServiceAccount": func() any { return &corev1.ServiceAccount{} }, "DaemonSet": func() any { return &appsv1.DaemonSet{} },
		"ClusterRole": func() any { return &rbacv1.ClusterRole{} }, "ClusterRoleBinding": func() any { return &rbacv1.ClusterRoleBinding{} },
		"Role": func() any { return &rbacv1.Role{} }, "RoleBinding": func() any { return &rbacv1.RoleBinding{} },
	}
	for text := range bytes.SplitSeq(data, []byte("\n---\n")) {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(text, &kind); err != nil || kinds[kind.Kind] == nil {
			t.Fatalf("%s: %v", kind.Kind, err)
		}
		object := kinds[kind.Kind]()
		if err := yaml.UnmarshalStrict(text, object); err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
		if set, ok := object.(*appsv1.DaemonSet); ok {
			command := set.Spec.Template.Spec.Containers[0].Command
			if strings.Join(command[:2], " ") != "/skep agent" {
				t.Errorf("command %v", command)
			}
			if err := agentCommandOf(newStartOptions(role{command: "agent", agent: true})).ParseFlags(command[2:]); err != nil {
				t.Error(err)
			}
		}
	}
}
