package api

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

func endpointSliceResource() *Resource {
	return &Resource{
		GroupVersion:             discoveryv1.SchemeGroupVersion,
		Kind:                     "EndpointSlice",
		Name:                     "endpointslices",
		Singular:                 "endpointslice",
		Namespaced:               true,
		New:                      func() runtime.Object { return &discoveryv1.EndpointSlice{} },
		NewList:                  func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
		AllowUnconditionalUpdate: true,
		Default:                  set(defaultEndpointSlice),
		ValidateName:             validation.NameIsDNSSubdomain,
		PrepareForCreate: set(func(s *discoveryv1.EndpointSlice) {
			s.Generation = 1
			dropTopology(s)
		}),
		PrepareForUpdate: setFrom(prepareEndpointSlice),
		Validate:         one(validateEndpointSlice),
		ValidateUpdate:   two(validateEndpointSliceUpdate),
		Warnings:         one(endpointSliceWarnings),
		Columns:          endpointSliceColumns(),
		Cells:            one(endpointSliceCells),
	}
}

// Limits that keep a slice to a size which is cheap to send to every node.
const (
	maxSliceEndpoints = 1000
	maxSliceAddresses = 100
	maxSlicePorts     = 20000
	maxSliceHints     = 8
)

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = ptr.To("")
		}
		if p.Protocol == nil {
			p.Protocol = ptr.To(corev1.ProtocolTCP)
		}
	}
}

// dropTopology drops the topology labels of older versions, which v1 has in fields of their own.
func dropTopology(s *discoveryv1.EndpointSlice) {
	for i := range s.Endpoints {
		s.Endpoints[i].DeprecatedTopology = nil
	}
}

func prepareEndpointSlice(s, old *discoveryv1.EndpointSlice) {
	if s.AddressType != old.AddressType || !equality.Semantic.DeepEqual(s.Labels, old.Labels) ||
		!equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) || !equality.Semantic.DeepEqual(s.Ports, old.Ports) {
		s.Generation = old.Generation + 1
	}
	if !equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
		dropTopology(s)
	}
}

func validateEndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	return append(validateSliceShape(s), validateSliceEndpoints(s)...)
}

// validateEndpointSliceUpdate lets endpoints stay that were stored under looser rules.
func validateEndpointSliceUpdate(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validateSliceShape(s)
	if bad := validateSliceEndpoints(s); len(bad) > 0 && !equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
		errs = append(errs, bad...)
	}
	return append(errs, checkImmutable(field.NewPath("addressType"), s.AddressType, old.AddressType)...)
}

// validateSliceShape checks all but the endpoints.
func validateSliceShape(s *discoveryv1.EndpointSlice) field.ErrorList {
	var errs field.ErrorList
	if s.AddressType == "" {
		errs = append(errs, field.Required(field.NewPath("addressType"), ""))
	} else {
		errs = append(errs, checkSet(field.NewPath("addressType"), s.AddressType,
			discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)...)
	}
	path := field.NewPath("ports")
	if len(s.Ports) > maxSlicePorts {
		return append(errs, field.TooMany(path, len(s.Ports), maxSlicePorts))
	}
	names := map[string]bool{}
	for i := range s.Ports {
		errs = append(errs, validateSlicePort(&s.Ports[i], names, path.Index(i))...)
	}
	return errs
}

// validateSlicePort checks a port and adds its name to those already seen.
func validateSlicePort(p *discoveryv1.EndpointPort, names map[string]bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	name := ptr.Deref(p.Name, "")
	if name != "" {
		errs = append(errs, checkLabel(path.Child("name"), name)...)
	}
	if names[name] {
		errs = append(errs, field.Duplicate(path.Child("name"), name))
	}
	names[name] = true
	errs = append(errs, checkProtocol(path.Child("protocol"), ptr.Deref(p.Protocol, ""))...)
	if p.AppProtocol != nil {
		errs = append(errs, checkQualifiedName(path.Child("appProtocol"), *p.AppProtocol)...)
	}
	return errs
}

func validateSliceEndpoints(s *discoveryv1.EndpointSlice) field.ErrorList {
	path := field.NewPath("endpoints")
	if len(s.Endpoints) > maxSliceEndpoints {
		return field.ErrorList{field.TooMany(path, len(s.Endpoints), maxSliceEndpoints)}
	}
	var errs field.ErrorList
	for i := range s.Endpoints {
		errs = append(errs, validateSliceEndpoint(&s.Endpoints[i], s.AddressType, path.Index(i))...)
	}
	return errs
}

func validateSliceEndpoint(e *discoveryv1.Endpoint, kind discoveryv1.AddressType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	addresses := path.Child("addresses")
	if len(e.Addresses) == 0 {
		errs = append(errs, field.Required(addresses, "must contain at least 1 address"))
	} else if len(e.Addresses) > maxSliceAddresses {
		errs = append(errs, field.TooMany(addresses, len(e.Addresses), maxSliceAddresses))
	}
	for i, a := range e.Addresses {
		errs = append(errs, checkSliceAddress(addresses, i, a, kind)...)
	}
	if e.NodeName != nil {
		errs = append(errs, invalid(path.Child("nodeName"), *e.NodeName, validation.NameIsDNSSubdomain(*e.NodeName, false))...)
	}
	if e.Hostname != nil {
		errs = append(errs, checkLabel(path.Child("hostname"), *e.Hostname)...)
	}
	if e.Hints != nil {
		errs = append(errs, validateHints(e.Hints, path.Child("hints"))...)
	}
	return errs
}

// checkSliceAddress checks an address against the slice's type; one of an unknown type is refused by the type alone.
func checkSliceAddress(path *field.Path, i int, address string, kind discoveryv1.AddressType) field.ErrorList {
	var errs field.ErrorList
	switch kind {
	case discoveryv1.AddressTypeIPv4:
		if errs = checkIP(path.Index(i), address, nil); len(errs) > 0 {
			return errs
		}
		if !netutils.IsIPv4String(address) {
			errs = append(errs, field.Invalid(path, address, "must be an IPv4 address"))
		}
	case discoveryv1.AddressTypeIPv6:
		if errs = utilvalidation.IsValidIP(path.Index(i), address); len(errs) > 0 {
			return errs
		}
		if !netutils.IsIPv6String(address) {
			errs = append(errs, field.Invalid(path, address, "must be an IPv6 address"))
		}
	case discoveryv1.AddressTypeFQDN:
		return utilvalidation.IsFullyQualifiedDomainName(path.Index(i), address)
	default:
		return nil
	}
	return append(errs, checkEndpointIP(path.Index(i), address)...)
}

func validateHints(h *discoveryv1.EndpointHints, path *field.Path) field.ErrorList {
	zones, nodes := path.Child("forZones"), path.Child("forNodes")
	if len(h.ForZones) > maxSliceHints {
		return field.ErrorList{field.TooMany(zones, len(h.ForZones), maxSliceHints)}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, z := range h.ForZones {
		at := zones.Index(i).Child("name")
		if seen[z.Name] {
			errs = append(errs, field.Duplicate(at, z.Name))
		}
		seen[z.Name] = true
		errs = append(errs, invalid(at, z.Name, utilvalidation.IsValidLabelValue(z.Name))...)
	}
	if len(h.ForNodes) > maxSliceHints {
		return append(errs, field.TooMany(nodes, len(h.ForNodes), maxSliceHints))
	}
	seen = map[string]bool{}
	for i, n := range h.ForNodes {
		at := nodes.Index(i).Child("name")
		if seen[n.Name] {
			errs = append(errs, field.Duplicate(at, n.Name))
		}
		seen[n.Name] = true
		errs = append(errs, invalid(at, n.Name, validation.NameIsDNSSubdomain(n.Name, false))...)
	}
	return errs
}

func endpointSliceWarnings(s *discoveryv1.EndpointSlice) []string {
	var warnings []string
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		warnings = append(warnings, "spec.addressType: FQDN endpoints are deprecated")
	}
	switch s.Labels[discoveryv1.LabelManagedBy] {
	case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
		return warnings // they write addresses in the one form
	}
	for i, e := range s.Endpoints {
		for j, a := range e.Addresses {
			warnings = append(warnings, utilvalidation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), a)...)
		}
	}
	return warnings
}
