package node

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/skep-io/skep/control/agent/pod"
)

// Fit says whether the node can take a pod beside those that run on it: the scheduler has said so, but it may have known less.
// node may be nil when it is not known yet.
func Fit(node *corev1.Node, allocatable corev1.ResourceList, p *corev1.Pod, running []*corev1.Pod) *pod.Rejection {
	if node != nil {
		if ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(node); err != nil || !ok {
			return &pod.Rejection{Reason: "NodeAffinity", Message: "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
		}
	}
	if port, ok := conflict(p, running); ok {
		return &pod.Rejection{Reason: "NodePorts", Message: fmt.Sprintf("Pod was rejected: Predicate NodePorts failed: host port %d is taken", port)}
	}
	if most := allocatable.Pods().Value(); int64(len(running)) >= most {
		return outOf(corev1.ResourcePods, 1, int64(len(running)), most)
	}
	return short(allocatable, p, running)
}

func short(allocatable corev1.ResourceList, p *corev1.Pod, running []*corev1.Pod) *pod.Rejection {
	for name, q := range resource.PodRequests(p, resource.PodResourcesOptions{}) {
		have, known := allocatable[name]
		if q.IsZero() || !known && (name == corev1.ResourceMemory || name == corev1.ResourceCPU) {
			continue
		}
		used := q.DeepCopy()
		used.Sub(q)
		for _, o := range running {
			if r, ok := resource.PodRequests(o, resource.PodResourcesOptions{})[name]; ok {
				used.Add(r)
			}
		}
		total := used.DeepCopy()
		total.Add(q)
		if total.Cmp(have) <= 0 {
			continue
		}
		if name == corev1.ResourceCPU {
			return outOf(name, q.MilliValue(), used.MilliValue(), have.MilliValue())
		}
		return outOf(name, q.Value(), used.Value(), have.Value())
	}
	return nil
}

func outOf(name corev1.ResourceName, requested, used, capacity int64) *pod.Rejection {
	return &pod.Rejection{
		Reason:  "OutOf" + string(name),
		Message: fmt.Sprintf("Pod was rejected: Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity),
	}
}

// conflict finds a host port that another pod holds.
func conflict(p *corev1.Pod, running []*corev1.Pod) (int32, bool) {
	for _, want := range hostPorts(p) {
		for _, o := range running {
			for _, have := range hostPorts(o) {
				sameIP := want.HostIP == have.HostIP || wild(want.HostIP) || wild(have.HostIP)
				if want.HostPort == have.HostPort && want.Protocol == have.Protocol && sameIP {
					return want.HostPort, true
				}
			}
		}
	}
	return 0, false
}

func wild(ip string) bool { return ip == "" || ip == "0.0.0.0" }

func hostPorts(p *corev1.Pod) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for i := range p.Spec.Containers {
		for _, port := range p.Spec.Containers[i].Ports {
			if port.HostPort != 0 {
				out = append(out, port)
			}
		}
	}
	return out
}
