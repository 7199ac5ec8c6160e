package cluster

import (
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// PodIndex knows the cluster's pods by their addresses: whose a client's address is, and which names of pods there are.
type PodIndex struct {
	synced cache.InformerSynced

	mu     sync.RWMutex
	byAddr map[netip.Addr]podRef
}

type podRef struct{ uid, namespace string }

// NewPodIndex adds handlers to the shared informer of pods; the caller starts the factory.
func NewPodIndex(factory informers.SharedInformerFactory) (*PodIndex, error) {
	p := &PodIndex{byAddr: map[netip.Addr]podRef{}}
	registration, err := factory.Core().V1().Pods().Informer().AddEventHandler(handler(p.changed))
	if err != nil {
		return nil, err
	}
	p.synced = registration.HasSynced
	return p, nil
}

// Synced implements Pods.
func (p *PodIndex) Synced() bool { return p.synced() }

// Namespace is that of the pod with the address, empty for others. Pods in the host's network have no address of their own.
func (p *PodIndex) Namespace(addr netip.Addr) string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byAddr[addr].namespace
}

// HasPod implements Pods.
func (p *PodIndex) HasPod(namespace string, addr netip.Addr) bool {
	return namespace != "" && p.Namespace(addr) == namespace
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
