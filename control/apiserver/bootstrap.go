package apiserver

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

// bootstrap makes what every cluster has: its namespaces, the Service that leads to the API server, and that of the cluster's
// DNS. It changes nothing that is as it should be, so that a restart writes nothing.
func bootstrap(ctx context.Context, client kubernetes.Interface, cfg Config) error {
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		if _, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); err == nil {
			continue
		}
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create namespace %s: %w", name, err)
		}
	}
	for _, svc := range []*corev1.Service{apiService(cfg), dnsService(cfg)} {
		if err := ensureService(ctx, client, svc); err != nil {
			return err
		}
	}
	if err := extendDNS(ctx, client, cfg); err != nil {
		return err
	}
	return ensureEndpoints(ctx, client, cfg)
}

// apiService leads pods to the API server.
func apiService(cfg Config) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: apiServiceName, Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"}},
		Spec: corev1.ServiceSpec{ClusterIP: cfg.APIServiceIP.String(), Ports: []corev1.ServicePort{
			{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt(cfg.Port)}}},
	}
}

// dnsService has no selector: on each node it leads to that node's own server. It has an address of each family that there is.
func dnsService(cfg Config) *corev1.Service {
	prefer := corev1.IPFamilyPolicyPreferDualStack
	var ips []string
	for _, ip := range cfg.DNSServiceIPs {
		ips = append(ips, ip.String())
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: dnsServiceName, Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}},
		Spec: corev1.ServiceSpec{ClusterIP: ips[0], ClusterIPs: ips, IPFamilyPolicy: &prefer, Ports: []corev1.ServicePort{
			{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt(53)},
			{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt(53)}}},
	}
}

func ensureService(ctx context.Context, client kubernetes.Interface, svc *corev1.Service) error {
	services := client.CoreV1().Services(svc.Namespace)
	if _, err := services.Get(ctx, svc.Name, metav1.GetOptions{}); err == nil {
		return nil
	}
	if _, err := services.Create(ctx, svc, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}

// extendDNS gives the DNS Service of a cluster that gained a second family an address of it.
func extendDNS(ctx context.Context, client kubernetes.Interface, cfg Config) error {
	want := dnsService(cfg)
	services := client.CoreV1().Services(want.Namespace)
	have, err := services.Get(ctx, want.Name, metav1.GetOptions{})
	if err == nil && len(have.Spec.ClusterIPs) == 1 && len(want.Spec.ClusterIPs) == 2 && have.Spec.ClusterIP == want.Spec.ClusterIP {
		have.Spec.ClusterIPs, have.Spec.IPFamilyPolicy = want.Spec.ClusterIPs, want.Spec.IPFamilyPolicy
		_, err = services.Update(ctx, have, metav1.UpdateOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("second address of service %s/%s: %w", want.Namespace, want.Name, err)
	}
	return nil
}

// ensureEndpoints leads the API server's Service to the advertised address.
func ensureEndpoints(ctx context.Context, client kubernetes.Interface, cfg Config) error {
	name, protocol, port, ready := "https", corev1.ProtocolTCP, int32(cfg.Port), true
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: apiServiceName, Labels: map[string]string{discoveryv1.LabelServiceName: apiServiceName}},
		AddressType: addressTypeOf(cfg.AdvertiseAddress),
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{cfg.AdvertiseAddress.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	slices := client.DiscoveryV1().EndpointSlices(slice.Namespace)
	have, err := slices.Get(ctx, slice.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = slices.Create(ctx, slice, metav1.CreateOptions{})
	case err == nil && have.AddressType != slice.AddressType:
		// It cannot change: the cluster's primary family did.
		if err = slices.Delete(ctx, slice.Name, metav1.DeleteOptions{}); err == nil {
			_, err = slices.Create(ctx, slice, metav1.CreateOptions{})
		}
	case err == nil && !(equality.Semantic.DeepEqual(have.Endpoints, slice.Endpoints) && equality.Semantic.DeepEqual(have.Ports, slice.Ports)):
		have.Endpoints, have.Ports = slice.Endpoints, slice.Ports
		_, err = slices.Update(ctx, have, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("endpoints of service %s: %w", apiServiceName, err)
	}
	return ensureLegacyEndpoints(ctx, client, cfg)
}

// The Services with fixed cluster IPs.
const (
	apiServiceName = "kubernetes"
	dnsServiceName = "kube-dns"
)

// reserved keeps the fixed cluster IPs for their Services.
func reserved(cfg Config) map[netip.Addr]string {
	owners := map[netip.Addr]string{cfg.APIServiceIP: metav1.NamespaceDefault + "/" + apiServiceName}
	for _, ip := range cfg.DNSServiceIPs {
		owners[ip] = metav1.NamespaceSystem + "/" + dnsServiceName
	}
	return owners
}

func addressTypeOf(ip netip.Addr) discoveryv1.AddressType {
	if ip.Is6() {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}
