package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Requests that a container without any counts with when nodes are compared, so that a node full of such pods does not look empty.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// amount is a quantity of each resource: CPU in thousandths, the rest in units. Pods are counted too.
type amount struct {
	milliCPU, memory, ephemeral, pods int64
	extended                          map[corev1.ResourceName]int64
}

func amountOf(list corev1.ResourceList) amount {
	var a amount
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU:
			a.milliCPU = quantity.MilliValue()
		case corev1.ResourceMemory:
			a.memory = quantity.Value()
		case corev1.ResourceEphemeralStorage:
			a.ephemeral = quantity.Value()
		case corev1.ResourcePods:
			a.pods = quantity.Value()
		default:
			if a.extended == nil {
				a.extended = map[corev1.ResourceName]int64{}
			}
			a.extended[name] = quantity.Value()
		}
	}
	return a
}

// add adds b, sign times.
func (a *amount) add(b *amount, sign int64) {
	a.milliCPU += sign * b.milliCPU
	a.memory += sign * b.memory
	a.ephemeral += sign * b.ephemeral
	a.pods += sign * b.pods
	for name, value := range b.extended {
		if a.extended == nil {
			a.extended = map[corev1.ResourceName]int64{}
		}
		a.extended[name] += sign * value
	}
}

// hostPort is a port of the node that a pod takes; address "0.0.0.0" is all addresses.
type hostPort struct {
	protocol corev1.Protocol
	address  string
	port     int32
}

const anyAddress = "0.0.0.0"

// demand is all that placing a pod needs to know of it, worked out once when the pod shows up.
type demand struct {
	pod      *corev1.Pod
	requests amount
	// usage is requests with the defaults for scores.
	usage    amount
	ports    []hostPort
	priority int32
	affinity nodeaffinity.RequiredNodeAffinity
	selects  bool // affinity asks for something
	likes    *nodeaffinity.PreferredSchedulingTerms
	owner    types.UID
	peers    podTerms
}

func newDemand(pod *corev1.Pod) *demand {
	d := &demand{
		pod:      pod,
		requests: amountOf(resource.PodRequests(pod, resource.PodResourcesOptions{UseStatusResources: true})),
		priority: schedulinghelpers.PodPriority(pod),
		affinity: nodeaffinity.GetRequiredNodeAffinity(pod),
		selects:  len(pod.Spec.NodeSelector) > 0,
	}
	d.requests.pods = 1
	d.usage = amountOf(resource.PodRequests(pod, resource.PodResourcesOptions{
		UseStatusResources: true,
		NonMissingContainerRequests: corev1.ResourceList{
			corev1.ResourceCPU:    *apiresource.NewMilliQuantity(defaultMilliCPU, apiresource.DecimalSI),
			corev1.ResourceMemory: *apiresource.NewQuantity(defaultMemory, apiresource.BinarySI),
		},
	}))
	for i := range pod.Spec.Containers {
		d.addPorts(pod.Spec.Containers[i].Ports)
	}
	for i := range pod.Spec.InitContainers {
		if policy := pod.Spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			d.addPorts(pod.Spec.InitContainers[i].Ports)
		}
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		d.owner = ref.UID
	}
	if affinity := pod.Spec.Affinity; affinity != nil && affinity.NodeAffinity != nil {
		d.selects = d.selects || affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
		// Validation has refused terms that do not parse.
		d.likes, _ = nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	d.peers = newPodTerms(pod)
	return d
}

func (d *demand) addPorts(ports []corev1.ContainerPort) {
	for i := range ports {
		if ports[i].HostPort <= 0 {
			continue
		}
		port := hostPort{protocol: ports[i].Protocol, address: ports[i].HostIP, port: ports[i].HostPort}
		if port.protocol == "" {
			port.protocol = corev1.ProtocolTCP
		}
		if port.address == "" || port.address == "::" {
			port.address = anyAddress
		}
		d.ports = append(d.ports, port)
	}
}

func (p hostPort) collides(other hostPort) bool {
	return p.protocol == other.protocol && p.port == other.port &&
		(p.address == other.address || p.address == anyAddress || other.address == anyAddress)
}

// tolerates says whether the pod may be on a node with the taint.
func (d *demand) tolerates(taint *corev1.Taint) bool {
	return slices.ContainsFunc(d.pod.Spec.Tolerations, func(t corev1.Toleration) bool {
		if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
			return false
		}
		switch t.Operator {
		case "", corev1.TolerationOpEqual:
			return t.Value == taint.Value
		case corev1.TolerationOpExists:
			return true
		}
		return false
	})
}
