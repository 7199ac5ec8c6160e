package translate

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/datapath/desired"
)

// HasHostPorts tells whether a pod asks for ports of its node that must lead to it. A pod in the node's own network has them
// without help.
func HasHostPorts(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && len(hostPorts(pod)) > 0
}

// HostPorts returns the rows for the host ports of a pod of this node, sorted by name: one for each port and family. There is none
// before the pod has an address, or once its containers have ended and the ports are free for another one.
func HostPorts(pod *corev1.Pod) []desired.Service {
	if !HasHostPorts(pod) || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	var rows []desired.Service
	for _, addr := range podAddresses(pod) {
		for _, port := range hostPorts(pod) {
			if row, ok := hostPortRow(pod, port, addr); ok {
				rows = append(rows, row)
			}
		}
	}
	slices.SortFunc(rows, func(a, b desired.Service) int { return a.Name.Compare(b.Name) })
	return slices.CompactFunc(rows, func(a, b desired.Service) bool { return a.Name == b.Name })
}

// hostPortRow returns the row of one port for one address of the pod; false: the port is not of its family or protocol.
func hostPortRow(pod *corev1.Pod, port corev1.ContainerPort, addr netip.Addr) (desired.Service, bool) {
	protocol, known := protocolOf(port.Protocol)
	host, ok := hostAddress(port.HostIP, addr.Is6())
	if !known || !ok || port.HostPort > 65535 || port.ContainerPort <= 0 || port.ContainerPort > 65535 {
		return desired.Service{}, false
	}
	front := netip.AddrPortFrom(host, uint16(port.HostPort))
	return desired.Service{
		Name: desired.PortName{
			Namespace: pod.Namespace, Service: desired.PodName(pod.Name),
			Port: fmt.Sprintf("%s/%s", front, protocol), V6: addr.Is6(),
		},
		Frontends: []desired.Frontend{{Address: front, Protocol: protocol, Kind: desired.HostPort}},
		Backends:  []desired.Backend{{Address: netip.AddrPortFrom(addr, uint16(port.ContainerPort)), Protocol: protocol}},
	}, true
}

// hostAddress is where a host port answers in a family: at its host IP, or without one at all addresses of the node.
func hostAddress(hostIP string, v6 bool) (netip.Addr, bool) {
	if hostIP == "" {
		if v6 {
			return desired.AnyLocal6, true
		}
		return desired.AnyLocal, true
	}
	addr, err := netip.ParseAddr(hostIP)
	return addr, err == nil && addr.Is6() == v6
}

// hostPorts lists the ports of the containers that run for as long as the pod: the sidecars among the init containers too.
func hostPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var list []corev1.ContainerPort
	add := func(ports []corev1.ContainerPort) {
		for _, p := range ports {
			if p.HostPort > 0 {
				list = append(list, p)
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c.Ports)
		}
	}
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].Ports)
	}
	return list
}

// podAddresses returns the addresses of a pod, at most one of each family.
func podAddresses(pod *corev1.Pod) []netip.Addr {
	list := []string{pod.Status.PodIP}
	for _, ip := range pod.Status.PodIPs {
		list = append(list, ip.IP)
	}
	var addrs []netip.Addr
	for _, s := range list {
		addr, err := netip.ParseAddr(s)
		if err == nil && !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is6() == addr.Is6() }) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
