package endpoints

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	endpointsliceutil "k8s.io/endpointslice/util"
)

//lint:file-ignore SA1019 Endpoints are deprecated and served all the same: that is what this is about.

// subsets computes the addresses of a Service from the pods that its selector matches: one subset for each set of ports that pods offer
// (a named target port may be another number in another pod), everything sorted so that equal inputs give equal objects.
func subsets(service *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	byPorts := map[string]*corev1.EndpointSubset{}
	for _, pod := range pods {
		if !endpointsliceutil.ShouldPodBeInEndpoints(pod, service.Spec.PublishNotReadyAddresses) {
			continue
		}
		ip := podIP(service, pod)
		ports := podPorts(service, pod)
		if ip == "" || len(ports) == 0 && len(service.Spec.Ports) > 0 {
			continue
		}
		key := fmt.Sprint(ports)
		subset := byPorts[key]
		if subset == nil {
			subset = &corev1.EndpointSubset{Ports: ports}
			byPorts[key] = subset
		}
		address := newAddress(service, pod, ip)
		if service.Spec.PublishNotReadyAddresses || endpointsliceutil.IsPodReady(pod) {
			subset.Addresses = append(subset.Addresses, address)
		} else {
			subset.NotReadyAddresses = append(subset.NotReadyAddresses, address)
		}
	}
	var result []corev1.EndpointSubset
	for _, key := range slices.Sorted(maps.Keys(byPorts)) {
		subset := byPorts[key]
		slices.SortFunc(subset.Addresses, byIP)
		slices.SortFunc(subset.NotReadyAddresses, byIP)
		result = append(result, *subset)
	}
	return result
}

func byIP(a, b corev1.EndpointAddress) int {
	return cmp.Or(strings.Compare(a.IP, b.IP), strings.Compare(string(a.TargetRef.UID), string(b.TargetRef.UID)))
}

func newAddress(service *corev1.Service, pod *corev1.Pod, ip string) corev1.EndpointAddress {
	address := corev1.EndpointAddress{
		IP:        ip,
		NodeName:  &pod.Spec.NodeName,
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if endpointsliceutil.ShouldSetHostname(pod, service) {
		address.Hostname = pod.Spec.Hostname
	}
	return address
}

// podIP is the pod's address of the Service's first family.
func podIP(service *corev1.Service, pod *corev1.Pod) string {
	if len(service.Spec.IPFamilies) == 0 {
		return pod.Status.PodIP
	}
	for _, candidate := range pod.Status.PodIPs {
		addr, err := netip.ParseAddr(candidate.IP)
		if err == nil && addr.Is4() == (service.Spec.IPFamilies[0] == corev1.IPv4Protocol) {
			return candidate.IP
		}
	}
	return ""
}

func podPorts(service *corev1.Service, pod *corev1.Pod) []corev1.EndpointPort {
	var ports []corev1.EndpointPort
	for i := range service.Spec.Ports {
		port := &service.Spec.Ports[i]
		if number := targetPort(port, pod); number > 0 {
			ports = append(ports, corev1.EndpointPort{Name: port.Name, Port: number, Protocol: port.Protocol, AppProtocol: port.AppProtocol})
		}
	}
	return ports
}

// targetPort is the number of the Service port's target in the pod, 0 when the pod has no port of that name.
func targetPort(port *corev1.ServicePort, pod *corev1.Pod) int32 {
	if port.TargetPort.Type == intstr.Int {
		return cmp.Or(port.TargetPort.IntVal, port.Port)
	}
	containers := pod.Spec.Containers
	for i := range pod.Spec.InitContainers {
		if policy := pod.Spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			containers = append(slices.Clip(containers), pod.Spec.InitContainers[i])
		}
	}
	for i := range containers {
		for _, candidate := range containers[i].Ports {
			if candidate.Name == port.TargetPort.StrVal && cmp.Or(candidate.Protocol, corev1.ProtocolTCP) == cmp.Or(port.Protocol, corev1.ProtocolTCP) {
				return candidate.ContainerPort
			}
		}
	}
	return 0
}
