package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
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
	return name, ok && name != "" && slices.Contains(user.GetGroups(), nodesGroup)
}

// Admit implements admission.MutationInterface: a request for a token is looked at before the server completes it.
func (p nodes) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	name, ok := nodeName(a)
	if !ok || a.GetResource().GroupResource() != corev1.Resource("serviceaccounts") || a.GetSubresource() != "token" {
		return nil
	}
	return p.token(ctx, a, name)
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
			return admission.NewForbidden(a, errors.New("can only access node lease with the same name as the requesting node"))
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

// node lets a node write its own object, without leave to draw pods to itself that are not meant for it.
func (nodes) node(a admission.Attributes, name string) error {
	if a.GetName() != name && objectName(a) != name {
		return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to modify node %q", name, a.GetName()))
	}
	after, ok := a.GetObject().(*corev1.Node)
	if !ok {
		return nil
	}
	before, ok := a.GetOldObject().(*corev1.Node)
	if !ok {
		if forbidden := foreignLabels(after.Labels, nil); len(forbidden) > 0 {
			return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to set the following labels: %s", name, strings.Join(forbidden, ", ")))
		}
		return nil
	}
	if !equality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints) {
		return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to modify taints", name))
	}
	if !equality.Semantic.DeepEqual(before.OwnerReferences, after.OwnerReferences) {
		return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to modify ownerReferences", name))
	}
	if forbidden := foreignLabels(after.Labels, before.Labels); len(forbidden) > 0 {
		return admission.NewForbidden(a, fmt.Errorf("is not allowed to modify labels: %s", strings.Join(forbidden, ", ")))
	}
	return nil
}

// token gives a node only tokens that die with a pod of its own.
func (p nodes) token(ctx context.Context, a admission.Attributes, name string) error {
	request, ok := a.GetObject().(*authenticationv1.TokenRequest)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return admission.NewForbidden(a, errors.New("node requested token not bound to a pod"))
	}
	if ref.UID == "" {
		return admission.NewForbidden(a, errors.New("node requested token with a pod binding without a uid"))
	}
	pod, err := p.client.CoreV1().Pods(a.GetNamespace()).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if ref.UID != pod.UID {
		return admission.NewForbidden(a, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	if pod.Spec.NodeName != name {
		return admission.NewForbidden(a, errors.New("node requested token bound to a pod scheduled on a different node"))
	}
	if len(request.Spec.Audiences) > 1 {
		return admission.NewForbidden(a, errors.New("node may only request 0 or 1 audiences"))
	}
	if audience := strings.Join(request.Spec.Audiences, ""); !projects(pod, audience) {
		return admission.NewForbidden(a, fmt.Errorf("%s is not authorized to request tokens for audience %q", a.GetUserInfo().GetName(), audience))
	}
	return nil
}

// projects says whether a volume of the pod holds a token for the audience; the empty one is that of the API server.
func projects(pod *corev1.Pod, audience string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience {
				return true
			}
		}
	}
	return false
}

// pod lets a node delete, evict and report on the pods that are bound to it.
func (p nodes) pod(ctx context.Context, a admission.Attributes, name string) error {
	sub, create := a.GetSubresource(), a.GetOperation() == admission.Create
	switch {
	case create && sub == "":
		return admission.NewForbidden(a, fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, name))
	case sub == "" && a.GetOperation() != admission.Delete:
		return admission.NewForbidden(a, fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", a.GetOperation(), name))
	case sub != "" && sub != "status" && sub != "eviction":
		return admission.NewForbidden(a, fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", sub))
	}
	pod, ok := a.GetOldObject().(*corev1.Pod)
	if !ok {
		var err error
		if pod, err = p.client.CoreV1().Pods(a.GetNamespace()).Get(ctx, a.GetName(), metav1.GetOptions{}); err != nil {
			return err
		}
	}
	if pod.Spec.NodeName != name {
		return admission.NewForbidden(a, fmt.Errorf(foreignPod[sub], name))
	}
	if after, ok := a.GetObject().(*corev1.Pod); ok && sub == "status" && !labels.Equals(pod.Labels, after.Labels) {
		return admission.NewForbidden(a, fmt.Errorf("node %q cannot update labels through pod status", name))
	}
	return nil
}

// foreignPod is what is said of a pod on another node, by subresource.
var foreignPod = map[string]string{
	"":         "node %q can only delete pods with spec.nodeName set to itself",
	"status":   "node %q can only update pod status for pods with spec.nodeName set to itself",
	"eviction": "node %s can only evict pods with spec.nodeName set to itself",
}
