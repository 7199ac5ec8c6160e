package api

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// ValidateClusterIPs checks cluster IPs, families and family policy of a Service against each other. It is also what allocation
// asks before it allocates; old is nil for a new Service.
func ValidateClusterIPs(s, old *corev1.Service) field.ErrorList {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil // has none, which validateByType checks
	}
	spec, path := &s.Spec, field.NewPath("spec")
	at := path.Child("clusterIPs")
	var errs field.ErrorList
	switch {
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		errs = append(errs, field.Required(at, ""))
	case spec.ClusterIP != "" && spec.ClusterIPs[0] != spec.ClusterIP:
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	errs = append(errs, validateFamilies(spec, path)...)
	var known []string
	if old != nil {
		known = old.Spec.ClusterIPs
	}
	bad := validateClusterIPList(spec.ClusterIPs, known, at)
	errs = append(errs, bad...)
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	if len(bad) > 0 {
		return errs // a family of no address says nothing
	}
	if len(spec.ClusterIPs) > 1 {
		if dual, err := netutils.IsDualStackIPStrings(spec.ClusterIPs); err != nil {
			errs = append(errs, field.InternalError(at, fmt.Errorf("failed to check for dual stack with error:%w", err)))
		} else if !dual {
			errs = append(errs, field.Invalid(at, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
		}
	}
	if headless(s) {
		return errs
	}
	for i, ip := range spec.ClusterIPs {
		if i == len(spec.IPFamilies) {
			break
		}
		six := netutils.IsIPv6String(ip)
		if f := spec.IPFamilies[i]; f == corev1.IPv4Protocol && six || f == corev1.IPv6Protocol && !six {
			errs = append(errs, field.Invalid(at.Index(i), ip, fmt.Sprintf("expected an %v value as indicated by `ipFamilies[%v]`", f, i)))
		}
	}
	return errs
}

func validateFamilies(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.IPFamily]bool{}
	for i, f := range spec.IPFamilies {
		at := path.Child("ipFamilies").Index(i)
		errs = append(errs, checkSet(at, f, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen[f] {
			errs = append(errs, field.Duplicate(at, f))
		}
		seen[f] = true
	}
	if p := spec.IPFamilyPolicy; p != nil {
		errs = append(errs, checkSet(path.Child("ipFamilyPolicy"), *p,
			corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	return errs
}

// validateClusterIPList checks each address; "None" may only stand alone.
func validateClusterIPList(ips, known []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(ips) > 1 {
				errs = append(errs, field.Invalid(path, ips, "'None' must be the first and only value"))
			}
			continue
		}
		errs = append(errs, checkIP(path.Index(i), ip, known)...)
	}
	return errs
}

// unchangeable is said of what a Service keeps for life.
const unchangeable = "may not change once set"

// validateClusterIPChange lets a Service gain and lose a second cluster IP, and nothing else.
func validateClusterIPChange(s, old *corev1.Service) field.ErrorList {
	if !NeedsClusterIP(s) || !NeedsClusterIP(old) || headless(s) && headless(old) {
		return nil
	}
	path := field.NewPath("spec", "clusterIPs")
	now, before := s.Spec.ClusterIPs, old.Spec.ClusterIPs
	var errs field.ErrorList
	if len(now) == len(before) {
		for i := range before {
			if now[i] != before[i] {
				errs = append(errs, field.Invalid(path.Index(i), now, unchangeable))
			}
		}
		return errs
	}
	if len(now) == 0 {
		return field.ErrorList{field.Invalid(path.Index(0), now, "primary clusterIP can not be unset")}
	}
	if len(before) > 0 && now[0] != before[0] {
		errs = append(errs, field.Invalid(path.Index(0), now, unchangeable))
	}
	if len(now) == 1 && len(before) > 1 {
		errs = append(errs, checkReleased(&s.Spec, "clusterIP")...)
	}
	return errs
}

// validateFamilyChange is validateClusterIPChange for the families, which headless Services may change.
func validateFamilyChange(s, old *corev1.Service) field.ErrorList {
	if !NeedsClusterIP(s) || !NeedsClusterIP(old) || headless(s) || headless(old) {
		return nil
	}
	path := field.NewPath("spec", "ipFamilies").Index(0)
	now, before := s.Spec.IPFamilies, old.Spec.IPFamilies
	var errs field.ErrorList
	if len(now) == len(before) {
		for i := range before {
			if now[i] != before[i] {
				errs = append(errs, field.Invalid(path, now, unchangeable))
			}
		}
		return errs
	}
	if len(now) < len(before) && len(s.Spec.ClusterIPs) == 0 {
		errs = append(errs, field.Invalid(path, now, "primary ipFamily can not be unset"))
	}
	if len(now) > 0 && len(before) > 0 && now[0] != before[0] {
		errs = append(errs, field.Invalid(path, s.Spec.ClusterIPs, unchangeable))
	}
	if len(now) == 1 && len(before) > 1 {
		errs = append(errs, checkReleased(&s.Spec, "ipFamily")...)
	}
	return errs
}

// checkReleased lets the second address or family go only if the policy says so.
func checkReleased(spec *corev1.ServiceSpec, what string) field.ErrorList {
	if p := spec.IPFamilyPolicy; p != nil && *p == corev1.IPFamilyPolicySingleStack {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary "+what)}
}
