package api

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func TestValidateEndpoints(t *testing.T) {
	at := field.NewPath("subsets")
	errorTexts(t, validateSubsets([]corev1.EndpointSubset{{}}, at), "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`")
	bad := []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "127.0.0.1"}},
		Ports:     []corev1.EndpointPort{{Port: 1, Protocol: "TCP"}, {Name: "a", Protocol: "TCP"}},
	}}
	errorTexts(t, validateSubsets(bad, at),
		`subsets[0].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`,
		"subsets[0].ports[0].name: Required value",
		"subsets[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive")
	if errs := validateEndpointsUpdate(&corev1.Endpoints{Subsets: bad}, &corev1.Endpoints{Subsets: bad}); errs != nil {
		t.Errorf("unchanged subsets are refused: %v", errs)
	}
}

func slice(change func(*discoveryv1.EndpointSlice)) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}},
		Ports:       []discoveryv1.EndpointPort{{Port: ptr.To[int32](80)}},
	}
	change(s)
	defaultEndpointSlice(s)
	return s
}

func TestValidateEndpointSlice(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*discoveryv1.EndpointSlice)
		want   []string
	}{
		{"valid", func(*discoveryv1.EndpointSlice) {}, nil},
		{"no type", func(s *discoveryv1.EndpointSlice) { s.AddressType = "" }, []string{"addressType: Required value"}},
		{"type", func(s *discoveryv1.EndpointSlice) { s.AddressType = "X" },
			[]string{`addressType: Unsupported value: "X": supported values: "FQDN", "IPv4", "IPv6"`}},
		{"no address", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = nil },
			[]string{"endpoints[0].addresses: Required value: must contain at least 1 address"}},
		{"other family", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses[0] = "fd00::1" },
			[]string{`endpoints[0].addresses: Invalid value: "fd00::1": must be an IPv4 address`}},
		{"twice a name", func(s *discoveryv1.EndpointSlice) { s.Ports = append(s.Ports, discoveryv1.EndpointPort{}) },
			[]string{`ports[1].name: Duplicate value: ""`}},
		{"protocol", func(s *discoveryv1.EndpointSlice) { s.Ports[0].Protocol = ptr.To(corev1.Protocol("X")) },
			[]string{`ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"`}},
		{"too many endpoints", func(s *discoveryv1.EndpointSlice) { s.Endpoints = make([]discoveryv1.Endpoint, 1001) },
			[]string{"endpoints: Too many: 1001: must have at most 1000 items"}},
	} {
		t.Run(c.name, func(t *testing.T) { errorTexts(t, validateEndpointSlice(slice(c.change)), c.want...) })
	}
	other := slice(func(s *discoveryv1.EndpointSlice) { s.AddressType, s.Endpoints = discoveryv1.AddressTypeFQDN, nil })
	errorTexts(t, validateEndpointSliceUpdate(other, slice(func(*discoveryv1.EndpointSlice) {})), `addressType: Invalid value: "FQDN": field is immutable`)
}

func TestEndpointSliceGeneration(t *testing.T) {
	old := slice(func(s *discoveryv1.EndpointSlice) { s.ObjectMeta = metav1.ObjectMeta{Name: "a", Generation: 2} })
	s := old.DeepCopy()
	s.ResourceVersion, s.Annotations = "9", map[string]string{"a": "b"}
	prepareEndpointSlice(s, old)
	if s.Generation != 2 {
		t.Error("metadata made a generation")
	}
	s.Endpoints[0].Addresses[0] = "10.0.0.2"
	prepareEndpointSlice(s, old)
	if s.Generation != 3 {
		t.Error("another address made no generation")
	}
}
