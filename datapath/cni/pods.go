package cni

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// errUnknownPod is returned for a pod of which the API does not tell in time.
var errUnknownPod = errors.New("the API tells of no such pod")

// mirrorAnnotation is on the API's image of a static pod and holds the UID by which the kubelet knows that.
const mirrorAnnotation = "kubernetes.io/config.mirror"

// Pods finds the API's objects of this node's pods. It is safe for concurrent use.
type Pods struct {
	node   string
	client kubernetes.Interface
	lister corelisters.PodLister

	mu sync.Mutex
	// changed is closed at the next event of one of this node's pods.
	changed chan struct{}
}

// NewPods follows the pods of the informers, which the caller starts. A pod whose UID the runtime does not tell is asked for from
// the client: what an informer has may be an earlier pod of its name.
func NewPods(node string, factory informers.SharedInformerFactory, client kubernetes.Interface) (*Pods, error) {
	p := &Pods{node: node, client: client, lister: factory.Core().V1().Pods().Lister(), changed: make(chan struct{})}
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    p.note,
		UpdateFunc: func(_, obj any) { p.note(obj) },
	})
	return p, err
}

func (p *Pods) note(obj any) {
	if pod, ok := obj.(*corev1.Pod); !ok || pod.Spec.NodeName != p.node {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Pods) next() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// Await returns a pod of this node, waiting for the API to tell of it.
func (p *Pods) Await(ctx context.Context, name podName) (*corev1.Pod, error) {
	for {
		next := p.next()
		pod, err := p.find(ctx, name)
		if err != nil {
			return nil, err
		}
		switch {
		case pod == nil || pod.Spec.NodeName == "":
		case pod.Spec.NodeName != p.node:
			return nil, fmt.Errorf("pod %s is of node %q, and this agent serves %q: is its --node-name right?", name, pod.Spec.NodeName, p.node)
		default:
			return pod, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, fmt.Errorf("pod %s, UID %q: %w: %w", name, name.UID, errUnknownPod, ctx.Err())
		}
	}
}

// find returns the pod as it is known, nil if it is not.
func (p *Pods) find(ctx context.Context, name podName) (pod *corev1.Pod, err error) {
	if name.UID == "" {
		pod, err = p.client.CoreV1().Pods(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
	} else {
		pod, err = p.lister.Pods(name.Namespace).Get(name.Name)
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if name.UID != "" && name.UID != string(pod.UID) && name.UID != pod.Annotations[mirrorAnnotation] {
		return nil, nil // an earlier one of the name
	}
	return pod, nil
}
