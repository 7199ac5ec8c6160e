package allocation

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func config() Config {
	return Config{Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/28")}, Ports: Ports{30000, 30003},
		Reserved: map[netip.Addr]string{netip.MustParseAddr("10.96.0.1"): "default/kubernetes"}}
}

func service(name, ip string, ports ...int32) *corev1.Service {
	s := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip}}
	s.Namespace, s.Name = "default", name
	if ip != "" {
		s.Spec.ClusterIPs = []string{ip}
	}
	for i, p := range ports {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint(i), Port: int32(80 + i), Protocol: corev1.ProtocolTCP, NodePort: p})
	}
	return s
}

// create runs one create of s and fails the test if it is refused.
func create(t *testing.T, s *Services, svc *corev1.Service) {
	t.Helper()
	finish, err := s.begin(svc, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	finish(context.Background(), true)
}

func TestEachAddressOnce(t *testing.T) {
	s := New(config())
	seen := map[string]bool{"10.96.0.1": true}
	for i := range 13 { // 16 less network, broadcast and the reserved one
		svc := service(fmt.Sprint("s", i), "")
		create(t, s, svc)
		if seen[svc.Spec.ClusterIP] || !netip.MustParsePrefix("10.96.0.0/28").Contains(netip.MustParseAddr(svc.Spec.ClusterIP)) {
			t.Fatalf("address %s", svc.Spec.ClusterIP)
		}
		if svc.Spec.ClusterIPs[0] != svc.Spec.ClusterIP || *svc.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack || svc.Spec.IPFamilies[0] != corev1.IPv4Protocol {
			t.Errorf("families of %+v", svc.Spec)
		}
		seen[svc.Spec.ClusterIP] = true
	}
	_, err := s.begin(service("more", ""), nil, false)
	if err == nil || !strings.Contains(err.Error(), "failed to allocate a serviceIP: range is full") {
		t.Errorf("full range: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	s := New(config())
	create(t, s, service("a", "10.96.0.5", 30001))
	for want, svc := range map[string]*corev1.Service{
		"failed to allocate IP 10.96.0.5: provided IP is already allocated":                service("b", "10.96.0.5"),
		"failed to allocate IP 10.96.0.1: provided IP is already allocated":                service("c", "10.96.0.1"),
		"The range of valid IPs is 10.96.0.0/28":                                           service("d", "10.97.0.5"),
		"spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated": service("e", "", 30001),
		"The range of valid ports is 30000-30003":                                          service("f", "", 40000),
	} {
		if _, err := s.begin(svc, nil, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	// What a refused write took before it failed is free again.
	create(t, s, service("g", "10.96.0.8", 30000, 30002, 30003))
	if _, err := s.begin(service("h", "10.96.0.7", 0), nil, false); err == nil || !strings.Contains(err.Error(), "failed to allocate a nodePort: range is full") {
		t.Errorf("full ports: %v", err)
	}
	create(t, s, service("i", "10.96.0.7"))
}

func TestReleases(t *testing.T) {
	s := New(config())
	failed := service("failed", "10.96.0.5", 30001)
	finish, err := s.begin(failed, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	finish(context.Background(), false)
	dry, err := s.begin(service("dry", "10.96.0.5", 30001), nil, true)
	if err != nil {
		t.Fatal(err)
	}
	dry(context.Background(), true)

	svc := service("real", "10.96.0.5", 30001)
	create(t, s, svc)
	changed := svc.DeepCopy()
	changed.Spec.Ports[0].NodePort = 30002
	finish, err = s.begin(changed, svc, false)
	if err != nil {
		t.Fatal(err)
	}
	finish(context.Background(), true)
	create(t, s, service("next", "", 30001))
	s.releaseExcept(changed, nil)
	create(t, s, service("again", "10.96.0.5", 30002))
}

func TestRestore(t *testing.T) {
	s := New(config())
	if err := s.Restore(service("a", "10.96.0.5", 30001)); err != nil {
		t.Fatal(err)
	}
	if err := s.Restore(service("b", "10.96.0.5")); err == nil {
		t.Error("two Services hold one address")
	}
	if _, err := s.begin(service("c", "", 30001), nil, false); err == nil {
		t.Error("a restored port was given out again")
	}
}
