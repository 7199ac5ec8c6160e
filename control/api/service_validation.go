package api

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

// maxAffinitySeconds is the longest that a client is kept on a backend: a day.
const maxAffinitySeconds = 86400

// validateService checks a Service that has its addresses and ports; old is nil for a new one.
func validateService(s, old *corev1.Service) field.ErrorList {
	spec, path := &s.Spec, field.NewPath("spec")
	errs := validateTopologyAnnotations(s)
	errs = append(errs, validateByType(s, path)...)
	names := map[string]bool{}
	for i := range spec.Ports {
		errs = append(errs, validateServicePort(&spec.Ports[i], len(spec.Ports) > 1, names, path.Child("ports").Index(i))...)
	}
	if spec.Selector != nil {
		errs = append(errs, metav1validation.ValidateLabels(spec.Selector, path.Child("selector"))...)
	}
	errs = append(errs, validateAffinity(spec, path)...)
	errs = append(errs, ValidateClusterIPs(s, old)...)
	errs = append(errs, validateExternalIPs(s, old, path.Child("externalIPs"))...)
	errs = append(errs, validateServiceType(spec, path)...)
	errs = append(errs, validatePortsTogether(spec.Ports, path.Child("ports"))...)
	errs = append(errs, validateSourceRanges(s, old, path)...)
	errs = append(errs, validateBalancer(spec, path)...)
	errs = append(errs, validateExternalTraffic(s, path)...)
	errs = append(errs, validateInternalTraffic(spec, path)...)
	if d := spec.TrafficDistribution; d != nil {
		errs = append(errs, checkSet(path.Child("trafficDistribution"), *d, corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

func validateTopologyAnnotations(s *corev1.Service) field.ErrorList {
	hints, old := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	mode, set := s.Annotations[corev1.AnnotationTopologyMode]
	if !old || !set || hints == mode {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata", "annotations").Key(corev1.AnnotationTopologyMode), mode,
		fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints))}
}

// validateByType checks what each type must have and may not have.
func validateByType(s *corev1.Service, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec := &s.Spec
	if len(spec.Ports) == 0 && !headless(s) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path.Child("ports"), ""))
	}
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if headless(s) {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), spec.ClusterIPs[0], fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)))
		}
	case corev1.ServiceTypeExternalName:
		for _, f := range []struct {
			name string
			set  bool
		}{{"clusterIPs", len(spec.ClusterIPs) > 0}, {"ipFamilies", len(spec.IPFamilies) > 0}, {"ipFamilyPolicy", spec.IPFamilyPolicy != nil}} {
			if f.set {
				errs = append(errs, field.Forbidden(path.Child(f.name), "may not be set for ExternalName services"))
			}
		}
		if name := strings.TrimSuffix(spec.ExternalName, "."); name != "" {
			errs = append(errs, invalid(path.Child("externalName"), name, utilvalidation.IsDNS1123Subdomain(name))...)
		} else {
			errs = append(errs, field.Required(path.Child("externalName"), ""))
		}
	}
	return errs
}

// validateServicePort checks a port by itself, and adds its name to those already seen.
func validateServicePort(p *corev1.ServicePort, named bool, names map[string]bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Name == "" {
		if named {
			errs = append(errs, field.Required(path.Child("name"), ""))
		}
	} else {
		errs = append(errs, checkLabel(path.Child("name"), p.Name)...)
		if names[p.Name] {
			errs = append(errs, field.Duplicate(path.Child("name"), p.Name))
		}
		names[p.Name] = true
	}
	errs = append(errs, invalid(path.Child("port"), p.Port, utilvalidation.IsValidPortNum(int(p.Port)))...)
	errs = append(errs, checkProtocol(path.Child("protocol"), p.Protocol)...)
	errs = append(errs, checkPort(path.Child("targetPort"), p.TargetPort)...)
	if p.AppProtocol != nil {
		errs = append(errs, checkQualifiedName(path.Child("appProtocol"), *p.AppProtocol)...)
	}
	return errs
}

// validatePortsTogether checks that no port, and no node port, is there twice for a protocol.
func validatePortsTogether(ports []corev1.ServicePort, path *field.Path) field.ErrorList {
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	var errs, duplicates field.ErrorList
	onNodes, onService := map[key]bool{}, map[key]bool{}
	for i, p := range ports {
		if k := (key{p.Protocol, p.NodePort}); p.NodePort != 0 {
			if onNodes[k] {
				errs = append(errs, field.Duplicate(path.Index(i).Child("nodePort"), p.NodePort))
			}
			onNodes[k] = true
		}
		k := key{p.Protocol, p.Port}
		if onService[k] {
			duplicates = append(duplicates, field.Duplicate(path.Index(i), corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
		onService[k] = true
	}
	return append(errs, duplicates...)
}

func validateAffinity(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	config := path.Child("sessionAffinityConfig")
	switch spec.SessionAffinity {
	case "":
		return field.ErrorList{field.Required(path.Child("sessionAffinity"), "")}
	case corev1.ServiceAffinityClientIP:
		return validateClientAffinity(spec.SessionAffinityConfig, config)
	case corev1.ServiceAffinityNone:
		if spec.SessionAffinityConfig != nil {
			return field.ErrorList{field.Forbidden(config, "must not be set when session affinity is None")}
		}
		return nil
	}
	return checkSet(path.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
}

func validateClientAffinity(c *corev1.SessionAffinityConfig, path *field.Path) field.ErrorList {
	const when = "when session affinity type is ClientIP"
	switch {
	case c == nil:
		return field.ErrorList{field.Required(path, when)}
	case c.ClientIP == nil:
		return field.ErrorList{field.Required(path.Child("clientIP"), when)}
	case c.ClientIP.TimeoutSeconds == nil:
		return field.ErrorList{field.Required(path.Child("clientIP", "timeoutSeconds"), when)}
	}
	if t := *c.ClientIP.TimeoutSeconds; t <= 0 || t > maxAffinitySeconds {
		return field.ErrorList{field.Invalid(path.Child("clientIP", "timeoutSeconds"), t, fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds))}
	}
	return nil
}

func validateExternalIPs(s, old *corev1.Service, path *field.Path) field.ErrorList {
	var known []string
	if old != nil {
		known = old.Spec.ExternalIPs
	}
	var errs field.ErrorList
	for i, ip := range s.Spec.ExternalIPs {
		bad := checkIP(path.Index(i), ip, known)
		if len(bad) == 0 {
			bad = checkEndpointIP(path.Index(i), ip)
		}
		errs = append(errs, bad...)
	}
	return errs
}

func validateServiceType(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	if spec.Type == "" {
		return field.ErrorList{field.Required(path.Child("type"), "")}
	}
	errs := checkSet(path.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	if spec.Type != corev1.ServiceTypeClusterIP {
		return errs
	}
	for i, p := range spec.Ports {
		if p.NodePort != 0 {
			errs = append(errs, field.Forbidden(path.Child("ports").Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
		}
	}
	return errs
}

// onlyBalancer refuses a field on Services of another type.
const onlyBalancer = "may only be used when `type` is 'LoadBalancer'"

// validateSourceRanges checks whom a load balancer lets in: the field, or the annotation that was there before it. Both may have
// spaces around values.
func validateSourceRanges(s, old *corev1.Service, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	balancer := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	if len(s.Spec.LoadBalancerSourceRanges) > 0 {
		at := path.Child("LoadBalancerSourceRanges")
		if !balancer {
			errs = append(errs, field.Forbidden(at, onlyBalancer))
		}
		var known []string
		if old != nil {
			known = trimmed(old.Spec.LoadBalancerSourceRanges)
		}
		for i, r := range trimmed(s.Spec.LoadBalancerSourceRanges) {
			errs = append(errs, checkCIDR(at.Index(i), r, known)...)
		}
		return errs
	}
	value, set := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !set {
		return nil
	}
	at := field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	if !balancer {
		errs = append(errs, field.Forbidden(at, onlyBalancer))
	}
	unchanged := old != nil && old.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey] == value
	if unchanged || strings.TrimSpace(value) == "" {
		return errs
	}
	for _, r := range trimmed(strings.Split(value, ",")) {
		errs = append(errs, checkCIDR(at, r, nil)...)
	}
	return errs
}

func trimmed(values []string) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = strings.TrimSpace(v)
	}
	return out
}

// validateBalancer checks the fields that only load balancers have.
func validateBalancer(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		if spec.AllocateLoadBalancerNodePorts != nil {
			errs = append(errs, field.Forbidden(path.Child("allocateLoadBalancerNodePorts"), onlyBalancer))
		}
		if spec.LoadBalancerClass != nil {
			errs = append(errs, field.Forbidden(path.Child("loadBalancerClass"), onlyBalancer))
		}
		return errs
	}
	if spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(field.NewPath("allocateLoadBalancerNodePorts"), ""))
	}
	if spec.LoadBalancerClass != nil {
		errs = append(errs, checkQualifiedName(path.Child("loadBalancerClass"), *spec.LoadBalancerClass)...)
	}
	return errs
}

func validateExternalTraffic(s *corev1.Service, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec, policy := &s.Spec, path.Child("externalTrafficPolicy")
	switch {
	case !reachableFromOutside(s):
		if spec.ExternalTrafficPolicy != "" {
			errs = append(errs, field.Invalid(policy, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
		}
	case spec.ExternalTrafficPolicy == "":
		errs = append(errs, field.Required(policy, ""))
	default:
		errs = append(errs, checkSet(policy, spec.ExternalTrafficPolicy,
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	}
	health := path.Child("healthCheckNodePort")
	switch {
	case !NeedsHealthCheckPort(s):
		if spec.HealthCheckNodePort != 0 {
			errs = append(errs, field.Invalid(health, spec.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
		}
	case spec.HealthCheckNodePort == 0:
		errs = append(errs, field.Required(health, ""))
	default:
		errs = append(errs, invalid(health, spec.HealthCheckNodePort, utilvalidation.IsValidPortNum(int(spec.HealthCheckNodePort)))...)
	}
	return errs
}

func validateInternalTraffic(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	at := path.Child("internalTrafficPolicy")
	if p := spec.InternalTrafficPolicy; p != nil {
		return checkSet(at, *p, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	}
	if proxied(spec.Type) {
		return field.ErrorList{field.Required(at, "")}
	}
	return nil
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	errs := validateClusterIPChange(s, old)
	errs = append(errs, validateFamilyChange(s, old)...)
	path := field.NewPath("spec")
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == s.Spec.Type &&
		!ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(path.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set"))
	}
	if NeedsHealthCheckPort(s) && NeedsHealthCheckPort(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(path.Child("healthCheckNodePort"), "field is immutable"))
	}
	return append(errs, validateService(s, old)...)
}

func validateServiceStatus(s, old *corev1.Service) field.ErrorList {
	path := field.NewPath("status", "loadBalancer", "ingress")
	ingress := s.Status.LoadBalancer.Ingress
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(ingress) > 0 {
		return field.ErrorList{field.Forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	var known []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			known = append(known, in.IP)
		}
	}
	var errs field.ErrorList
	for i := range ingress {
		errs = append(errs, validateIngress(&ingress[i], known, path.Index(i))...)
	}
	return errs
}

func validateIngress(in *corev1.LoadBalancerIngress, known []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if in.IP != "" {
		errs = append(errs, checkIP(path.Child("ip"), in.IP, known)...)
	}
	mode := path.Child("ipMode")
	switch {
	case in.IPMode == nil && in.IP != "":
		errs = append(errs, field.Required(mode, "must be specified when `ip` is set"))
	case in.IPMode != nil && in.IP == "":
		errs = append(errs, field.Forbidden(mode, "may not be specified when `ip` is not set"))
	case in.IPMode != nil:
		errs = append(errs, checkSet(mode, *in.IPMode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
	}
	if in.Hostname != "" {
		errs = append(errs, invalid(path.Child("hostname"), in.Hostname, utilvalidation.IsDNS1123Subdomain(in.Hostname))...)
		if netutils.ParseIPSloppy(in.Hostname) != nil {
			errs = append(errs, field.Invalid(path.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}

func serviceWarnings(s *corev1.Service) []string {
	var warnings []string
	warn := func(more ...string) { warnings = append(warnings, more...) }
	spec, path := &s.Spec, field.NewPath("spec")
	none := spec.Type == corev1.ServiceTypeClusterIP && spec.ClusterIP == corev1.ClusterIPNone
	external := spec.Type == corev1.ServiceTypeExternalName
	if _, ok := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		warn(fmt.Sprintf("annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	}
	if spec.ClusterIP != "" && spec.ClusterIP != corev1.ClusterIPNone {
		for i, ip := range spec.ClusterIPs {
			warn(utilvalidation.GetWarningsForIP(path.Child("clusterIPs").Index(i), ip)...)
		}
	}
	if none && spec.LoadBalancerIP != "" {
		warn("spec.loadBalancerIP is ignored for headless services")
	}
	if none && len(spec.ExternalIPs) > 0 {
		warn("spec.externalIPs is ignored for headless services")
	}
	if none && spec.SessionAffinity != corev1.ServiceAffinityNone {
		warn("spec.SessionAffinity is ignored for headless services")
	}
	for i, ip := range spec.ExternalIPs {
		warn(utilvalidation.GetWarningsForIP(path.Child("externalIPs").Index(i), ip)...)
	}
	if len(spec.ExternalIPs) > 0 && !none && !external {
		warn("spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if spec.LoadBalancerIP != "" {
		warn(utilvalidation.GetWarningsForIP(path.Child("loadBalancerIP"), spec.LoadBalancerIP)...)
	}
	for i, r := range spec.LoadBalancerSourceRanges {
		warn(utilvalidation.GetWarningsForCIDR(path.Child("loadBalancerSourceRanges").Index(i), r)...)
	}
	if external && len(spec.ExternalIPs) > 0 {
		warn(`spec.externalIPs is ignored when spec.type is "ExternalName"`)
	}
	if !external && spec.ExternalName != "" {
		warn(`spec.externalName is ignored when spec.type is not "ExternalName"`)
	}
	if d := spec.TrafficDistribution; d != nil && *d == corev1.ServiceTrafficDistributionPreferClose {
		warn(fmt.Sprintf("spec.trafficDistribution: %q is deprecated; use %q", *d, corev1.ServiceTrafficDistributionPreferSameZone))
	}
	return warnings
}
