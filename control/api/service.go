package api

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func serviceResource() *Resource {
	return &Resource{
		GroupVersion:             corev1.SchemeGroupVersion,
		Kind:                     "Service",
		Name:                     "services",
		Singular:                 "service",
		ShortNames:               []string{"svc"},
		Categories:               []string{"all"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &corev1.Service{} },
		NewList:                  func() runtime.Object { return &corev1.ServiceList{} },
		HasStatus:                true,
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
		Default:                  set(defaultService),
		ValidateName:             validation.NameIsDNSLabel,
		PrepareForCreate:         set(func(s *corev1.Service) { s.Status = corev1.ServiceStatus{} }),
		PrepareForUpdate: setFrom(func(s, old *corev1.Service) {
			s.Status = old.Status
			dropOtherType(s, old)
		}),
		PrepareForStatusUpdate: setFrom(func(s, old *corev1.Service) { s.Spec = old.Spec }),
		Validate:               one(func(s *corev1.Service) field.ErrorList { return validateService(s, nil) }),
		ValidateUpdate:         two(validateServiceUpdate),
		ValidateStatusUpdate:   two(validateServiceStatus),
		Warnings:               one(serviceWarnings),
		SelectableFields: one(func(s *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		}),
		Columns: serviceColumns(),
		Cells:   one(serviceCells),
	}
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	defaultAffinity(spec)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if reachableFromOutside(s) && spec.ExternalTrafficPolicy == "" {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if proxied(spec.Type) {
		fill(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	fill(&spec.AllocateLoadBalancerNodePorts, true)
	for i := range s.Status.LoadBalancer.Ingress {
		if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" {
			fill(&in.IPMode, corev1.LoadBalancerIPModeVIP)
		}
	}
}

func defaultAffinity(spec *corev1.ServiceSpec) {
	switch spec.SessionAffinity {
	case "":
		spec.SessionAffinity = corev1.ServiceAffinityNone
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if c := spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			timeout := corev1.DefaultClientIPServiceAffinitySeconds
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
		}
	}
}

// proxied reports whether Services of a type have traffic of their own, which an ExternalName has not.
func proxied(t corev1.ServiceType) bool {
	return t == corev1.ServiceTypeClusterIP || t == corev1.ServiceTypeNodePort || t == corev1.ServiceTypeLoadBalancer
}

// reachableFromOutside reports whether a Service has an address or a port that is meant for clients outside the cluster.
func reachableFromOutside(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeClusterIP:
		return len(s.Spec.ExternalIPs) > 0
	}
	return false
}

// NeedsHealthCheckPort reports whether a Service needs a port on which a load balancer asks nodes for local endpoints.
func NeedsHealthCheckPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// NeedsNodePort reports whether the ports of a Service are opened on nodes.
func NeedsNodePort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// NeedsClusterIP reports whether a Service has a cluster IP, which may be "None".
func NeedsClusterIP(s *corev1.Service) bool {
	return s.Spec.Type != corev1.ServiceTypeExternalName
}

// headless reports whether a Service is without a cluster IP on purpose.
func headless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// NormalizeClusterIPs makes the plural field follow the singular one where the writer, who may know only the older field, changed
// that alone. old is nil for a new Service. It comes before allocation, validation says what remains wrong.
func NormalizeClusterIPs(s, old *corev1.Service) {
	if old == nil {
		if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
		return
	}
	same := s.Spec.ClusterIP == old.Spec.ClusterIP
	if same && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
	}
	if same || !slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		return
	}
	s.Spec.ClusterIPs = nil
	if s.Spec.ClusterIP != "" {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
}

// KeepAllocated gives a changed Service the cluster IPs and ports that it had, where the writer left them out: the manifest that
// made the Service can be applied again.
func KeepAllocated(s, old *corev1.Service) {
	if NeedsClusterIP(old) && NeedsClusterIP(s) {
		s.Spec.ClusterIP = orElse(s.Spec.ClusterIP, old.Spec.ClusterIP)
		if len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if NeedsNodePort(old) && NeedsNodePort(s) {
		keepNodePorts(s, old)
	}
	if NeedsHealthCheckPort(old) && NeedsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

func keepNodePorts(s, old *corev1.Service) {
	had := map[string]int32{}
	for _, p := range old.Spec.Ports {
		had[p.Name] = p.NodePort
	}
	asked := nodePorts(s)
	for i := range s.Spec.Ports {
		// A port that the writer gave to another name is not this one's any more.
		if p := &s.Spec.Ports[i]; p.NodePort == 0 && !asked[had[p.Name]] {
			p.NodePort = had[p.Name]
		}
	}
}

// nodePorts are the ports that a Service has on nodes.
func nodePorts(s *corev1.Service) map[int32]bool {
	ports := map[int32]bool{}
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			ports[p.NodePort] = true
		}
	}
	return ports
}

// dropOtherType clears what the old type of a Service needed and the new one does not, unless the writer changed it as well: then
// validation refuses it.
func dropOtherType(s, old *corev1.Service) {
	if NeedsClusterIP(old) && !NeedsClusterIP(s) {
		dropClusterIPs(&s.Spec, &old.Spec)
	}
	if NeedsNodePort(old) && !NeedsNodePort(s) && subset(nodePorts(s), nodePorts(old)) {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}
	if NeedsHealthCheckPort(old) && !NeedsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		s.Spec.HealthCheckNodePort = 0
	}
	if reachableFromOutside(old) && !reachableFromOutside(s) && s.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		s.Spec.ExternalTrafficPolicy = ""
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		return
	}
	if old.Spec.Type == corev1.ServiceTypeLoadBalancer {
		if ptr.Equal(s.Spec.AllocateLoadBalancerNodePorts, old.Spec.AllocateLoadBalancerNodePorts) {
			s.Spec.AllocateLoadBalancerNodePorts = nil
		}
		if ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
			s.Spec.LoadBalancerClass = nil
		}
	}
	s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
}

func dropClusterIPs(s, old *corev1.ServiceSpec) {
	if s.ClusterIP == old.ClusterIP && slices.Equal(s.ClusterIPs, old.ClusterIPs) {
		s.ClusterIP, s.ClusterIPs = "", nil
	}
	if slices.Equal(s.IPFamilies, old.IPFamilies) {
		s.IPFamilies = nil
	}
	if ptr.Equal(s.IPFamilyPolicy, old.IPFamilyPolicy) {
		s.IPFamilyPolicy = nil
	}
}

func subset(part, whole map[int32]bool) bool {
	for p := range part {
		if !whole[p] {
			return false
		}
	}
	return true
}
