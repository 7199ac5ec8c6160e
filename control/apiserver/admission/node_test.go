package admission

import (
	"context"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes/fake"
)

func node(name string, labels ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	for _, l := range labels {
		n.Labels[l] = "x"
	}
	return n
}

func TestNodesWriteTheirOwn(t *testing.T) {
	own, other := node("n1"), node("n2")
	tainted := own.DeepCopy()
	tainted.Spec.Taints = []corev1.Taint{{Key: "k"}}
	owned := own.DeepCopy()
	owned.OwnerReferences = []metav1.OwnerReference{{Name: "o"}}
	renamed := pod("n1")
	renamed.Labels = map[string]string{"app": "web"}
	agent := node("n1", "kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
		"example.com/rack", "plain", "x.node.kubernetes.io/a", "kubelet.kubernetes.io/b")
	const restricted = "node-restriction.kubernetes.io/tier"
	role := node("n1", "node-role.kubernetes.io/control-plane")
	p := nodes{client: fake.NewClientset()}
	for name, c := range map[string]struct {
		a    admission.Attributes
		want string
	}{
		"own node":            {request(admission.Update, "nodes", "status", own, own, "system:node:n1"), ""},
		"other node":          {request(admission.Update, "nodes", "status", other, other, "system:node:n1"), `nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"`},
		"own taints":          {request(admission.Update, "nodes", "", tainted, own, "system:node:n1"), `nodes "n1" is forbidden: node "n1" is not allowed to modify taints`},
		"taints by status":    {request(admission.Update, "nodes", "status", tainted, own, "system:node:n1"), `nodes "n1" is forbidden: node "n1" is not allowed to modify taints`},
		"taints of a new":     {request(admission.Create, "nodes", "", tainted, nil, "system:node:n1"), ""},
		"own owners":          {request(admission.Update, "nodes", "", owned, own, "system:node:n1"), `nodes "n1" is forbidden: node "n1" is not allowed to modify ownerReferences`},
		"agent's labels":      {request(admission.Create, "nodes", "", agent, nil, "system:node:n1"), ""},
		"agent's labels anew": {request(admission.Update, "nodes", "", agent, own, "system:node:n1"), ""},
		"restricted label": {request(admission.Create, "nodes", "", node("n1", restricted), nil, "system:node:n1"),
			`nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: ` + restricted},
		"new restricted label":     {request(admission.Update, "nodes", "", node("n1", restricted), own, "system:node:n1"), `nodes "n1" is forbidden: is not allowed to modify labels: ` + restricted},
		"dropped restricted label": {request(admission.Update, "nodes", "", own, node("n1", restricted), "system:node:n1"), `nodes "n1" is forbidden: is not allowed to modify labels: ` + restricted},
		"kept restricted label":    {request(admission.Update, "nodes", "", node("n1", restricted, "plain"), node("n1", restricted), "system:node:n1"), ""},
		"role":                     {request(admission.Update, "nodes", "", role, own, "system:node:n1"), `nodes "n1" is forbidden: is not allowed to modify labels: node-role.kubernetes.io/control-plane`},
		"own pod's status":         {request(admission.Update, "pods", "status", pod("n1"), pod("n1"), "system:node:n1"), ""},
		"own pod's labels":         {request(admission.Update, "pods", "status", renamed, pod("n1"), "system:node:n1"), `pods "p" is forbidden: node "n1" cannot update labels through pod status`},
		"other pod's status":       {request(admission.Update, "pods", "status", pod("n2"), pod("n2"), "system:node:n1"), `pods "p" is forbidden: node "n1" can only update pod status for pods with spec.nodeName set to itself`},
		"own pod":                  {request(admission.Update, "pods", "", renamed, pod("n1"), "system:node:n1"), `pods "p" is forbidden: unexpected operation "UPDATE", node "n1" can only create and delete mirror pods`},
		"delete of own pod":        {request(admission.Delete, "pods", "", nil, pod("n1"), "system:node:n1"), ""},
		"new pod":                  {request(admission.Create, "pods", "", pod("n1"), nil, "system:node:n1"), `pods "p" is forbidden: pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		"somebody else's job":      {request(admission.Update, "nodes", "", tainted, own, "admin"), ""},
	} {
		if got := text(p.Validate(context.Background(), c.a, nil)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestNodesAskForTokensOfTheirPods(t *testing.T) {
	own, other := pod("n1"), pod("n2")
	own.UID, other.Name, other.UID = "u1", "q", "u2"
	own.Spec.Volumes = []corev1.Volume{tokenVolume("kube-api-access-1")}
	p := nodes{client: fake.NewClientset(own, other)}
	bound := func(name string, uid types.UID, audiences ...string) *authenticationv1.TokenRequest {
		return &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences,
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: uid}}}
	}
	toNode := bound("n1", "u1")
	toNode.Spec.BoundObjectRef.Kind = "Node"
	const forbidden = `serviceaccounts "default" is forbidden: `
	for name, c := range map[string]struct {
		request *authenticationv1.TokenRequest
		want    string
	}{
		"own pod":        {bound("p", "u1"), ""},
		"bound to none":  {&authenticationv1.TokenRequest{}, forbidden + "node requested token not bound to a pod"},
		"bound to node":  {toNode, forbidden + "node requested token not bound to a pod"},
		"no uid":         {bound("p", ""), forbidden + "node requested token with a pod binding without a uid"},
		"another uid":    {bound("p", "u9"), forbidden + "the UID in the bound object reference (u9) does not match the UID in record. The object might have been deleted and then recreated"},
		"foreign pod":    {bound("q", "u2"), forbidden + "node requested token bound to a pod scheduled on a different node"},
		"no pod":         {bound("gone", "u1"), `pods "gone" not found`},
		"other audience": {bound("p", "u1", "vault"), forbidden + `system:node:n1 is not authorized to request tokens for audience "vault"`},
		"two audiences":  {bound("p", "u1", "a", "b"), forbidden + "node may only request 0 or 1 audiences"},
	} {
		c.request.Name = "default"
		a := request(admission.Create, "serviceaccounts", "token", c.request, nil, "system:node:n1")
		if got := text(p.Admit(context.Background(), a, nil)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
