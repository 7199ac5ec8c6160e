package allocation

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/control/api"
)

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// otherFamily is the one that makes a single-stack Service dual-stack.
func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// families are those of the cluster, the default one first.
func (s *Services) families() []corev1.IPFamily {
	var list []corev1.IPFamily
	for _, p := range s.cfg.Services {
		list = append(list, familyOf(p.Addr()))
	}
	return list
}

// chooseFamilies fills in the family policy and the families of a Service, and refuses what this cluster does not have. A Service
// changes between one and two families only by direction of its policy, never because the cluster has changed.
func (s *Services) chooseFamilies(svc, old *corev1.Service) error {
	spec := &svc.Spec
	if !api.NeedsClusterIP(svc) || unchangedDual(svc, old) {
		return nil
	}
	loose := spec.ClusterIP == corev1.ClusterIPNone && len(spec.Selector) == 0
	choosePolicy(svc, old, loose)
	errs := releaseSecond(svc, old)
	errs = append(errs, checkSingle(spec)...)
	errs = append(errs, s.inferFamilies(spec)...)
	if len(errs) == 0 && !loose {
		errs = s.checkConfigured(spec)
	}
	if len(errs) > 0 {
		return invalid(svc, errs...)
	}
	have := s.families()
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = have[:1]
	}
	// Who makes the endpoints of a headless Service without a selector may have families that the cluster has not.
	dual := loose || len(have) == 2
	if dual && *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(spec.IPFamilies) == 1 {
		spec.IPFamilies = append(slices.Clip(spec.IPFamilies), otherFamily(spec.IPFamilies[0]))
	}
	return nil
}

// unchangedDual says that an update leaves a PreferDualStack Service with the families that it has, be it one or two.
func unchangedDual(svc, old *corev1.Service) bool {
	prefers := func(s *corev1.Service) bool {
		return ptr.Deref(s.Spec.IPFamilyPolicy, "") == corev1.IPFamilyPolicyPreferDualStack
	}
	return old != nil && old.Spec.Type == svc.Spec.Type && prefers(old) && prefers(svc) &&
		slices.Equal(old.Spec.ClusterIPs, svc.Spec.ClusterIPs) && slices.Equal(old.Spec.IPFamilies, svc.Spec.IPFamilies)
}

// choosePolicy keeps the policy that the Service had. A new one is single-stack, unless others make its endpoints.
func choosePolicy(svc, old *corev1.Service, loose bool) {
	switch {
	case svc.Spec.IPFamilyPolicy != nil:
	case old != nil && old.Spec.IPFamilyPolicy != nil:
		svc.Spec.IPFamilyPolicy = ptr.To(*old.Spec.IPFamilyPolicy)
	case loose:
		svc.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	default:
		svc.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
	}
}

// releaseSecond drops the second address and family of a Service whose policy became single-stack and which says nothing else of
// them, and refuses to drop them under any other policy.
func releaseSecond(svc, old *corev1.Service) field.ErrorList {
	if old == nil {
		return nil
	}
	spec, before := &svc.Spec, &old.Spec
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
		if len(spec.ClusterIPs) > 1 && slices.Equal(spec.ClusterIPs, before.ClusterIPs) {
			spec.ClusterIPs = spec.ClusterIPs[:1]
		}
		if len(spec.IPFamilies) > 1 && slices.Equal(spec.IPFamilies, before.IPFamilies) {
			spec.IPFamilies = spec.IPFamilies[:1]
		}
		return nil
	}
	var errs field.ErrorList
	path := field.NewPath("spec", "ipFamilyPolicy")
	if len(spec.ClusterIPs) == 1 && len(before.ClusterIPs) == 2 && spec.ClusterIPs[0] == before.ClusterIPs[0] {
		errs = append(errs, field.Invalid(path, spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary cluster IP"))
	}
	if len(spec.IPFamilies) == 1 && len(before.IPFamilies) == 2 && spec.IPFamilies[0] == before.IPFamilies[0] {
		errs = append(errs, field.Invalid(path, spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary IP family"))
	}
	return errs
}

// checkSingle refuses two of anything for a single-stack Service.
func checkSingle(spec *corev1.ServiceSpec) field.ErrorList {
	if *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		return nil
	}
	var errs field.ErrorList
	path := field.NewPath("spec", "ipFamilyPolicy")
	if len(spec.ClusterIPs) == 2 {
		errs = append(errs, field.Invalid(path, spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"))
	}
	if len(spec.IPFamilies) == 2 {
		errs = append(errs, field.Invalid(path, spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
	}
	return errs
}

// inferFamilies adds the families of addresses that are given without one.
func (s *Services) inferFamilies(spec *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	for i, text := range spec.ClusterIPs {
		ip, err := netip.ParseAddr(text)
		if err != nil || i < len(spec.IPFamilies) {
			continue // None, or checked against its family before
		}
		family := familyOf(ip)
		if !slices.Contains(s.families(), family) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "clusterIPs").Index(i), spec.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", family)))
			continue
		}
		spec.IPFamilies = append(slices.Clip(spec.IPFamilies), family)
	}
	return errs
}

// checkConfigured refuses families that the cluster does not have.
func (s *Services) checkConfigured(spec *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	have := s.families()
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(have) < 2 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, family := range spec.IPFamilies {
		if !slices.Contains(have, family) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilies").Index(i), family, "not configured on this cluster"))
		}
	}
	return errs
}
