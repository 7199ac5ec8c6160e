package admission

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes"
)

const (
	nodeUserPrefix = "system:node:"
	nodesGroup     = "system:nodes"
)

// nodes keeps a node from writing what is another's (upstream's NodeRestriction).
type nodes struct{ client kubernetes.Interface }

// Handles implements admission.Interface.
func (nodes) Handles(op admission.Operation) bool { return op != admission.Connect }

// nodeName returns the node that makes the request.
func nodeName(a admission.Attributes) (string, bool) {
	user := a.GetUserInfo()
	if user == nil {
		return "", false
	}
	name, ok := strings.CutPrefix(user.GetName(), nodeUserPrefix)
	if !ok || name == "" {
		return "", false
	}
	for _, g := range user.GetGroups() {
		if g == nodesGroup {
			return name, true
		}
	}
	return "", false
}

// Validate implements admission.ValidationInterface.
func (p nodes) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	name, ok := nodeName(a)
	if !ok {
		return nil
	}
	switch a.GetResource().GroupResource().String() {
	case "nodes":
		return p.node(a, name)
	case "leases.coordination.k8s.io":
		if a.GetNamespace() != corev1.NamespaceNodeLease || a.GetName() != name && objectName(a) != name {
			return admission.NewForbidden(a, fmt.Errorf("can only access node lease with the same name as the requesting node"))
		}
	case "pods":
		return p.pod(ctx, a, name)
	}
	return nil
}

func objectName(a admission.Attributes) string {
	if m, ok := a.GetObject().(metav1.Object); ok {
		return m.GetName()
	}
	return ""
}

func (nodes) node(a admission.Attributes, name string) error {
	if a.GetName() != name && objectName(a) != name {
		return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to modify node %q", name, a.GetName()))
	}
	before, ok := a.GetOldObject().(*corev1.Node)
	after, ok2 := a.GetObject().(*corev1.Node)
	if ok && ok2 && a.GetSubresource() == "" && fmt.Sprint(before.Spec.Taints) != fmt.Sprint(after.Spec.Taints) {
		return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to modify taints", name))
	}
	return nil
}

// pod lets a node delete, evict and report on the pods that are bound to it.
func (p nodes) pod(ctx context.Context, a admission.Attributes, name string) error {
	if a.GetOperation() == admission.Create && a.GetSubresource() == "" {
		return admission.NewForbidden(a, fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, name))
	}
	pod, ok := a.GetOldObject().(*corev1.Pod)
	if !ok {
		var err error
		if pod, err = p.client.CoreV1().Pods(a.GetNamespace()).Get(ctx, a.GetName(), metav1.GetOptions{ResourceVersion: "0"}); err != nil {
			return err
		}
	}
	if pod.Spec.NodeName != name {
		return admission.NewForbidden(a, fmt.Errorf("node %q can only modify pods with spec.nodeName set to itself", name))
	}
	return nil
}
