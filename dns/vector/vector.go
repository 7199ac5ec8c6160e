// Package vector is the table of what cluster DNS answers: a small cluster, and for each form of record and of error a question
// with its answer. Whatever answers for the cluster, in the kernel or beside it, is held against this one table.
package vector

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Domain is the cluster domain of the table.
const Domain = "cluster.local"

// Case is one question and its answer.
type Case struct {
	// Name and Type are the question; Name is spelled as the client does.
	Name, Type string
	// Rcode is the answer's code by name.
	Rcode string
	// Answer and Extra are the sections' records in presentation form with single blanks and without their TTLs, sorted. An answer
	// without records has the zone's SOA as authority.
	Answer, Extra []string
}

// Outside are names that the zone has no say in.
var Outside = []string{"example.com.", "xcluster.local.", "local.", "1.2.0.192.in-addr.arpa.", "2.0.192.in-addr.arpa.", ".",
	"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", "arpa.", "x.in-addr.arpa.", "300.1.1.1.in-addr.arpa."}

// Objects are what the cluster of the table holds.
func Objects() []runtime.Object {
	http := corev1.ServicePort{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}
	return []runtime.Object{
		namespace("default"), namespace("kube-system"), namespace("bare"),
		service("kube-system", "kube-dns", ips("10.96.0.10"), corev1.ServicePort{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}),
		service("default", "web", ips("10.96.0.5"), http),
		service("default", "mixed", ips("10.96.0.6"), http, corev1.ServicePort{Protocol: corev1.ProtocolUDP, Port: 99}),
		service("default", "dual", ips("10.96.0.7", "fd00:96::7"), http),
		service("default", "six", ips("fd00:96::8"), http),
		service("default", "both", ips("10.96.0.12"), corev1.ServicePort{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}, corev1.ServicePort{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53}),
		service("default", "portless", ips("10.96.0.9")),
		service("default", "db", ips(corev1.ClusterIPNone), http),
		service("default", "dbdual", ips(corev1.ClusterIPNone), http),
		service("default", "empty", ips(corev1.ClusterIPNone), http),
		service("default", "eager", func(s *corev1.Service) {
			ips(corev1.ClusterIPNone)(s)
			s.Spec.PublishNotReadyAddresses = true
		}, http),
		service("default", "ext", external("example.com")),
		service("default", "inner", external("web.default.svc.cluster.local")),
		service("default", "lost", external("gone.default.svc.cluster.local.")),
		service("default", "loop", external("loop.default.svc.cluster.local")),
		service("default", "literal", external("192.0.2.7")),
		service("unseen", "early", ips("10.96.0.11"), http),
		slice("default", "web", "1", endpoint("", nil, "10.244.0.9")),
		slice("default", "db", "1",
			endpoint("db-0", nil, "10.244.0.2"), endpoint("", ptr(true), "10.244.0.3"), endpoint("", ptr(false), "10.244.0.4"),
			endpoint("twin", nil, "10.244.0.5"), endpoint("twin", nil, "10.244.0.6")),
		slice("default", "dbdual", "4", endpoint("a", nil, "10.244.0.20")),
		slice("default", "dbdual", "6", endpoint("a", nil, "fd00:244::20"), endpoint("", nil, "fd00:244::")),
		slice("default", "empty", "1", endpoint("", ptr(false), "10.244.0.30")),
		slice("default", "eager", "1", endpoint("", ptr(false), "10.244.0.31")),
	}
}

func ptr[T any](v T) *T { return &v }

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func service(ns, name string, change func(*corev1.Service), ports ...corev1.ServicePort) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{Ports: ports}}
	change(s)
	return s
}

func ips(list ...string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = list[0], list }
}

func external(target string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, target }
}

func slice(ns, svc, suffix string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: ns, Name: svc + "-" + suffix, Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr[int32](8080), Protocol: ptr(corev1.ProtocolTCP)}},
	}
}

func endpoint(host string, ready *bool, addr string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}
	if host != "" {
		e.Hostname = &host
	}
	return e
}
