package api

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// service is a valid Service as it is after allocation.
func service(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{}
	s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}}
	s.Spec.ClusterIP = "10.96.0.20"
	s.Spec.ClusterIPs = []string{"10.96.0.20"}
	s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
	if change != nil {
		change(s)
	}
	defaultService(s)
	return s
}

func TestValidateService(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*corev1.Service)
		want   []string
	}{
		{"valid", nil, nil},
		{"no ports", func(s *corev1.Service) { s.Spec.Ports = nil }, []string{"spec.ports: Required value"}},
		{"headless without ports", func(s *corev1.Service) {
			s.Spec.Ports, s.Spec.ClusterIP, s.Spec.ClusterIPs = nil, "None", []string{"None"}
		}, nil},
		{"second port without a name", func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 81}) },
			[]string{"spec.ports[1].name: Required value"}},
		{"port out of range", func(s *corev1.Service) { s.Spec.Ports[0].Port, s.Spec.Ports[0].TargetPort = 65536, intstr.FromInt32(1) },
			[]string{"spec.ports[0].port: Invalid value: 65536: must be between 1 and 65535, inclusive"}},
		{"protocol", func(s *corev1.Service) { s.Spec.Ports[0].Protocol = "ICMP" },
			[]string{`spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"`}},
		{"node port on a cluster IP", func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30000 },
			[]string{"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"}},
		{"duplicate node port", func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeNodePort
			s.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 1, NodePort: 30000}, {Name: "b", Port: 2, NodePort: 30000}}
		}, []string{"spec.ports[1].nodePort: Duplicate value: 30000"}},
		{"headless node port", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ServiceTypeNodePort, "None", []string{"None"}
		}, []string{`spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services`}},
		{"type", func(s *corev1.Service) { s.Spec.Type = "X" },
			[]string{`spec.type: Unsupported value: "X": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`}},
		{"external name", func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}
		}, []string{"spec.externalName: Required value"}},
		{"cluster IP", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "x", []string{"x"} },
			[]string{`spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`}},
		{"cluster IP of another family", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "fd00::1", []string{"fd00::1"} },
			[]string{"spec.clusterIPs[0]: Invalid value: \"fd00::1\": expected an IPv4 value as indicated by `ipFamilies[0]`"}},
		{"external IP", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"127.0.0.1"} },
			[]string{`spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`}},
		{"affinity timeout", func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](0)}}
		}, []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400"}},
		{"health check port", func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 30001 },
			[]string{"spec.healthCheckNodePort: Invalid value: 30001: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"}},
		{"external policy inside", func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = "Local" },
			[]string{`spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services`}},
		{"source ranges", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"} },
			[]string{"spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			errorTexts(t, validateService(service(c.change), nil), c.want...)
		})
	}
}

func TestValidateServiceUpdate(t *testing.T) {
	for _, c := range []struct {
		name        string
		old, change func(*corev1.Service)
		want        []string
	}{
		{"same", nil, nil, nil},
		{"cluster IP", nil, func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.21", []string{"10.96.0.21"} },
			[]string{`spec.clusterIPs[0]: Invalid value: ["10.96.0.21"]: may not change once set`}},
		{"family", nil, func(s *corev1.Service) {
			s.Spec.IPFamilies, s.Spec.ClusterIP, s.Spec.ClusterIPs = nil, "10.96.0.20", []string{"10.96.0.20"}
		}, nil},
		{"second family released without saying so", func(s *corev1.Service) {
			s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00::1")
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPv6Protocol)
		}, func(s *corev1.Service) { s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack) }, []string{
			`spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be set to 'SingleStack' when releasing the secondary clusterIP`,
			`spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be set to 'SingleStack' when releasing the secondary ipFamily`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			errorTexts(t, validateServiceUpdate(service(c.change), service(c.old)), c.want...)
		})
	}
}

func TestTypeChangeDropsWhatTheOldTypeNeeded(t *testing.T) {
	old := service(func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30007 })
	s := old.DeepCopy()
	s.Spec.Type = corev1.ServiceTypeClusterIP
	dropOtherType(s, old)
	if s.Spec.Ports[0].NodePort != 0 || s.Spec.ExternalTrafficPolicy != "" || s.Spec.ClusterIP == "" {
		t.Errorf("kept or lost too much: %+v", s.Spec)
	}
	s = old.DeepCopy()
	s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "a.example"
	dropOtherType(s, old)
	if s.Spec.ClusterIP != "" || s.Spec.ClusterIPs != nil || s.Spec.IPFamilies != nil || s.Spec.IPFamilyPolicy != nil {
		t.Errorf("kept addresses: %+v", s.Spec)
	}
}

func TestKeepAllocated(t *testing.T) {
	old := service(func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30007 })
	s := old.DeepCopy()
	s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.Ports[0].NodePort = "", nil, 0
	KeepAllocated(s, old)
	if s.Spec.ClusterIP != "10.96.0.20" || len(s.Spec.ClusterIPs) != 1 || s.Spec.Ports[0].NodePort != 30007 {
		t.Errorf("not kept: %+v", s.Spec)
	}
	s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "new", Port: 81, NodePort: 30007}}
	KeepAllocated(s, old)
	if s.Spec.Ports[0].NodePort != 0 {
		t.Error("a port that another name took was given twice")
	}
}

func TestNormalizeClusterIPs(t *testing.T) {
	made := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.9"}}
	NormalizeClusterIPs(made, nil)
	if len(made.Spec.ClusterIPs) != 1 {
		t.Error("a new Service's plural field does not follow")
	}
	old := service(nil)
	s := old.DeepCopy()
	s.Spec.ClusterIP = "10.96.0.9"
	NormalizeClusterIPs(s, old)
	if s.Spec.ClusterIPs[0] != "10.96.0.9" {
		t.Error("a changed address is not followed")
	}
	s = old.DeepCopy()
	s.Spec.ClusterIP = ""
	NormalizeClusterIPs(s, old)
	if s.Spec.ClusterIPs != nil {
		t.Error("a cleared address is not followed")
	}
}
