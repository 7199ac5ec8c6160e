package cluster

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Strip keeps of an object what records are made from: as an informer's transform it makes the stores of a server that runs alone a
// fraction of the API's objects. Who else reads the same stores needs more.
func Strip(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Service:
		return &corev1.Service{ObjectMeta: stripMeta(&o.ObjectMeta), Spec: stripService(&o.Spec)}, nil
	case *discoveryv1.EndpointSlice:
		s := &discoveryv1.EndpointSlice{ObjectMeta: stripMeta(&o.ObjectMeta), AddressType: o.AddressType, Ports: o.Ports}
		if name, ok := o.Labels[discoveryv1.LabelServiceName]; ok {
			s.Labels = map[string]string{discoveryv1.LabelServiceName: name}
		}
		s.Endpoints = make([]discoveryv1.Endpoint, len(o.Endpoints))
		for i := range o.Endpoints {
			e := &o.Endpoints[i]
			s.Endpoints[i] = discoveryv1.Endpoint{Addresses: e.Addresses, Hostname: e.Hostname, Conditions: discoveryv1.EndpointConditions{Ready: e.Conditions.Ready}}
		}
		return s, nil
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: stripMeta(&o.ObjectMeta)}, nil
	}
	return obj, nil
}

func stripMeta(m *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, ResourceVersion: m.ResourceVersion}
}

func stripService(s *corev1.ServiceSpec) corev1.ServiceSpec {
	out := corev1.ServiceSpec{Type: s.Type, ExternalName: s.ExternalName, ClusterIP: s.ClusterIP, ClusterIPs: s.ClusterIPs, PublishNotReadyAddresses: s.PublishNotReadyAddresses}
	for _, p := range s.Ports {
		out.Ports = append(out.Ports, corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port})
	}
	return out
}
