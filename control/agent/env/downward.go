package env

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Field returns the value of a field of a pod, as the downward API names it.
func Field(p *corev1.Pod, path string) (string, error) {
	if name, key, ok := strings.Cut(path, "['"); ok {
		key = strings.TrimSuffix(key, "']")
		switch name {
		case "metadata.annotations":
			return p.Annotations[key], nil
		case "metadata.labels":
			return p.Labels[key], nil
		}
	}
	switch path {
	case "metadata.annotations":
		return lines(p.Annotations), nil
	case "metadata.labels":
		return lines(p.Labels), nil
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "spec.nodeName":
		return p.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return p.Status.HostIP, nil
	case "status.podIP":
		return p.Status.PodIP, nil
	case "status.hostIPs":
		var ips []string
		for _, ip := range p.Status.HostIPs {
			ips = append(ips, ip.IP)
		}
		return strings.Join(ips, ","), nil
	case "status.podIPs":
		var ips []string
		for _, ip := range p.Status.PodIPs {
			ips = append(ips, ip.IP)
		}
		return strings.Join(ips, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func lines(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s=%q", k, m[k]))
	}
	return strings.Join(out, "\n")
}

// Resource returns a container's request or limit in units of the divisor, rounded up. A limit that is not set is what the node
// can give.
func Resource(p *corev1.Pod, c *corev1.Container, f *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	if f.ContainerName != "" {
		i := slices.IndexFunc(p.Spec.Containers, func(o corev1.Container) bool { return o.Name == f.ContainerName })
		if i < 0 {
			return "", fmt.Errorf("container %s not found", f.ContainerName)
		}
		c = &p.Spec.Containers[i]
	}
	if c == nil {
		return "", fmt.Errorf("resource %s: no container named", f.Resource)
	}
	kind, name, _ := strings.Cut(f.Resource, ".")
	var q resource.Quantity
	switch kind {
	case "limits":
		q = c.Resources.Limits[corev1.ResourceName(name)]
		if q.IsZero() {
			q = allocatable[corev1.ResourceName(name)]
		}
	case "requests":
		q = c.Resources.Requests[corev1.ResourceName(name)]
	default:
		return "", fmt.Errorf("unsupported container resource : %v", f.Resource)
	}
	if name == string(corev1.ResourceCPU) {
		return ratio(q.MilliValue(), f.Divisor.MilliValue(), 1000), nil
	}
	return ratio(q.Value(), f.Divisor.Value(), 1), nil
}

func ratio(value, divisor, one int64) string {
	if divisor == 0 {
		divisor = one
	}
	return fmt.Sprint((value + divisor - 1) / divisor)
}
