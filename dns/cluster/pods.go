package cluster

import (
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// PodIndex knows the pods of one node by their addresses: whose a client's address is. It watches once somebody asks.
type PodIndex struct {
	client kubernetes.Interface
	node   string
	done   <-chan struct{}
	start  sync.Once

	mu     sync.RWMutex
	byAddr map[netip.Addr]podRef
}

type podRef struct{ uid, namespace string }

// NewPodIndex returns an index whose watch ends with done.
func NewPodIndex(client kubernetes.Interface, node string, done <-chan struct{}) *PodIndex {
	return &PodIndex{client: client, node: node, done: done, byAddr: map[netip.Addr]podRef{}}
}

// Namespace is that of the pod with the address, empty for others. Pods in the host's network have no address of their own.
func (p *PodIndex) Namespace(addr netip.Addr) string {
	p.start.Do(p.watch)
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byAddr[addr].namespace
}

// HasPod implements Pods for the pods of this node.
func (p *PodIndex) HasPod(namespace string, addr netip.Addr) bool {
	return namespace != "" && p.Namespace(addr) == namespace
}

func (p *PodIndex) watch() {
	factory := informers.NewSharedInformerFactoryWithOptions(p.client, 0, informers.WithTransform(stripPod),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", p.node).String()
		}))
	informer := factory.Core().V1().Pods().Informer()
	if _, err := informer.AddEventHandler(handler(p.changed)); err != nil {
		return // an informer that has not started takes handlers
	}
	factory.Start(p.done)
}

// stripPod keeps of a pod what the index reads.
func stripPod(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion},
		Spec:       corev1.PodSpec{HostNetwork: pod.Spec.HostNetwork, NodeName: pod.Spec.NodeName},
		Status:     corev1.PodStatus{Phase: pod.Status.Phase, PodIPs: pod.Status.PodIPs},
	}, nil
}

func (p *PodIndex) changed(obj any, there bool) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.HostNetwork {
		return
	}
	gone := !there || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ip := range pod.Status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		if err != nil {
			continue
		}
		if !gone {
			p.byAddr[addr] = podRef{uid: string(pod.UID), namespace: pod.Namespace}
		} else if p.byAddr[addr].uid == string(pod.UID) { // else the address has its next owner already
			delete(p.byAddr, addr)
		}
	}
}
