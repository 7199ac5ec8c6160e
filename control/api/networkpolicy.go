package api

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

func networkPolicyResource() *Resource {
	return &Resource{
		GroupVersion:             networkingv1.SchemeGroupVersion,
		Kind:                     "NetworkPolicy",
		Name:                     "networkpolicies",
		Singular:                 "networkpolicy",
		ShortNames:               []string{"netpol"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &networkingv1.NetworkPolicy{} },
		NewList:                  func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
		AllowUnconditionalUpdate: true,
		Default:                  set(defaultNetworkPolicy),
		ValidateName:             validation.NameIsDNSSubdomain,
		PrepareForCreate:         set(func(p *networkingv1.NetworkPolicy) { p.Generation = 1 }),
		PrepareForUpdate: setFrom(func(p, old *networkingv1.NetworkPolicy) {
			if !equality.Semantic.DeepEqual(p.Spec, old.Spec) {
				p.Generation = old.Generation + 1
			}
		}),
		Validate:       one(func(p *networkingv1.NetworkPolicy) field.ErrorList { return policyCheck{}.spec(&p.Spec) }),
		ValidateUpdate: two(validateNetworkPolicyUpdate),
		Warnings:       one(networkPolicyWarnings),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Pod-Selector", "string", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
			ageColumn(),
		},
		Cells: one(func(p *networkingv1.NetworkPolicy) []any {
			return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), age(p.CreationTimestamp)}
		}),
	}
}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	for i := range p.Spec.Ingress {
		defaultPolicyPorts(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		defaultPolicyPorts(p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) > 0 {
		return
	}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(p.Spec.Egress) > 0 {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
}

func defaultPolicyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		fill(&ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// policyCheck says what a policy may hold although it is wrong, because it is stored so. The zero value is for new policies.
type policyCheck struct {
	// knownCIDRs are the ranges that the stored policy has.
	knownCIDRs []string
	// selectors lets label values of selectors be invalid.
	selectors bool
}

func validateNetworkPolicyUpdate(p, old *networkingv1.NetworkPolicy) field.ErrorList {
	c := policyCheck{selectors: len(policyCheck{}.selector(&old.Spec.PodSelector, nil)) > 0}
	eachIPBlock(&old.Spec, func(b *networkingv1.IPBlock, _ *field.Path) {
		c.knownCIDRs = append(append(c.knownCIDRs, b.CIDR), b.Except...)
	})
	return c.spec(&p.Spec)
}

// eachIPBlock calls f with the ranges of all rules and where they are.
func eachIPBlock(spec *networkingv1.NetworkPolicySpec, f func(*networkingv1.IPBlock, *field.Path)) {
	each := func(peers []networkingv1.NetworkPolicyPeer, path *field.Path) {
		for i := range peers {
			if b := peers[i].IPBlock; b != nil {
				f(b, path.Index(i).Child("ipBlock"))
			}
		}
	}
	path := field.NewPath("spec")
	for i := range spec.Ingress {
		each(spec.Ingress[i].From, path.Child("ingress").Index(i).Child("from"))
	}
	for i := range spec.Egress {
		each(spec.Egress[i].To, path.Child("egress").Index(i).Child("to"))
	}
}

func (c policyCheck) spec(spec *networkingv1.NetworkPolicySpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := c.selector(&spec.PodSelector, path.Child("podSelector"))
	for i, rule := range spec.Ingress {
		at := path.Child("ingress").Index(i)
		errs = append(errs, c.rule(rule.Ports, at.Child("ports"), rule.From, at.Child("from"))...)
	}
	for i, rule := range spec.Egress {
		at := path.Child("egress").Index(i)
		errs = append(errs, c.rule(rule.Ports, at.Child("ports"), rule.To, at.Child("to"))...)
	}
	types := path.Child("policyTypes")
	if len(spec.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, &spec.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range spec.PolicyTypes {
		errs = append(errs, checkSet(types.Index(i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func (c policyCheck) rule(ports []networkingv1.NetworkPolicyPort, portsPath *field.Path, peers []networkingv1.NetworkPolicyPeer, peersPath *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		errs = append(errs, validatePolicyPort(&ports[i], portsPath.Index(i))...)
	}
	for i := range peers {
		errs = append(errs, c.peer(&peers[i], peersPath.Index(i))...)
	}
	return errs
}

func validatePolicyPort(p *networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Protocol != nil {
		errs = append(errs, checkSet(path.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	end := path.Child("endPort")
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
		}
	case p.Port.Type == intstr.String:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		errs = append(errs, checkPort(path.Child("port"), *p.Port)...)
	default:
		errs = append(errs, checkPort(path.Child("port"), *p.Port)...)
		if p.EndPort == nil {
			return errs
		}
		if *p.EndPort < p.Port.IntVal {
			errs = append(errs, field.Invalid(end, *p.EndPort, "must be greater than or equal to `port`"))
		}
		errs = append(errs, invalid(end, *p.EndPort, utilvalidation.IsValidPortNum(int(*p.EndPort)))...)
	}
	return errs
}

func (c policyCheck) peer(p *networkingv1.NetworkPolicyPeer, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.PodSelector != nil {
		errs = append(errs, c.selector(p.PodSelector, path.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		errs = append(errs, c.selector(p.NamespaceSelector, path.Child("namespaceSelector"))...)
	}
	if p.IPBlock != nil {
		errs = append(errs, c.ipBlock(p.IPBlock, path.Child("ipBlock"))...)
	}
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	switch {
	case !selects && p.IPBlock == nil:
		errs = append(errs, field.Required(path, "must specify a peer"))
	case selects && p.IPBlock != nil:
		errs = append(errs, field.Forbidden(path, "may not specify both ipBlock and another peer"))
	}
	return errs
}

func (c policyCheck) selector(s *metav1.LabelSelector, path *field.Path) field.ErrorList {
	return metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: c.selectors}, path)
}

// ipBlock checks a range and that what is taken from it lies within. A range that does not parse has got its error already.
func (c policyCheck) ipBlock(b *networkingv1.IPBlock, path *field.Path) field.ErrorList {
	at := path.Child("cidr")
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := checkCIDR(at, b.CIDR, c.knownCIDRs)
	_, whole, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return errs
	}
	wholeBits, _ := whole.Mask.Size()
	for i, except := range b.Except {
		at := path.Child("except").Index(i)
		errs = append(errs, checkCIDR(at, except, c.knownCIDRs)...)
		_, part, err := netutils.ParseCIDRSloppy(except)
		if err != nil {
			continue
		}
		if bits, _ := part.Mask.Size(); !whole.Contains(part.IP) || wholeBits >= bits {
			errs = append(errs, field.Invalid(at, except, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

func networkPolicyWarnings(p *networkingv1.NetworkPolicy) []string {
	var warnings []string
	eachIPBlock(&p.Spec, func(b *networkingv1.IPBlock, path *field.Path) {
		warnings = slices.Concat(warnings, utilvalidation.GetWarningsForCIDR(path.Child("cidr"), b.CIDR))
		for i, except := range b.Except {
			warnings = slices.Concat(warnings, utilvalidation.GetWarningsForCIDR(path.Child("except").Index(i), except))
		}
	})
	return warnings
}
