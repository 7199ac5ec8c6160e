package authorization

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

const (
	nodeUserPrefix = "system:node:"
	nodesGroup     = "system:nodes"
)

// PodsOf lists the pods of a namespace that are bound to a node. The list is as recent as the last write where fresh is set, and
// may be a little older, but cheaper, where it is not.
type PodsOf func(ctx context.Context, namespace, node string, fresh bool) ([]corev1.Pod, error)

// dnsConfig is the ConfigMap that configures cluster DNS.
const dnsConfig = "skep-dns"

// nodes lets each node read what the pods that are bound to it refer to, and no more.
type nodes struct {
	pods  PodsOf
	rules []rbacv1.PolicyRule
}

// nodeOf returns the node that a user is.
func nodeOf(u user.Info) (string, bool) {
	name, ok := strings.CutPrefix(u.GetName(), nodeUserPrefix)
	return name, ok && name != "" && slices.Contains(u.GetGroups(), nodesGroup)
}

// authorize implements authorizer.AuthorizerFunc.
func (n nodes) authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	name, ok := nodeOf(a.GetUser())
	if !ok || !a.IsResourceRequest() || !slices.ContainsFunc(n.rules, func(r rbacv1.PolicyRule) bool { return allows(a, &r) }) {
		return authorizer.DecisionNoOpinion, "", nil
	}
	refusal, err := n.refuse(ctx, a, name)
	if err != nil || refusal != "" {
		return authorizer.DecisionNoOpinion, refusal, err
	}
	return authorizer.DecisionAllow, "", nil
}

// refuse returns why a request that the rules allow concerns another node's objects, nothing where it does not.
func (n nodes) refuse(ctx context.Context, a authorizer.Attributes, node string) (string, error) {
	resource := a.GetResource()
	if sub := a.GetSubresource(); sub != "" {
		resource += "/" + sub
	}
	switch resource {
	case "secrets", "configmaps", "serviceaccounts/token":
		if a.GetName() == "" {
			return "No Object name found", nil
		}
		if resource == "configmaps" && a.GetNamespace() == "kube-system" && a.GetName() == dnsConfig {
			return "", nil // every node serves DNS by it
		}
		return n.refuseUnless(ctx, a, node, func(p corev1.Pod) bool { return refers(&p, resource, a.GetName()) })
	case "pods":
		return n.refusePods(ctx, a, node)
	case "leases":
		if a.GetNamespace() != corev1.NamespaceNodeLease || a.GetName() != node && a.GetVerb() != "create" {
			return "can only access node lease with the same name as the requesting node", nil
		}
	}
	return "", nil
}

// refusePods lets a node list its own pods by field selector, and get and delete each of them.
func (n nodes) refusePods(ctx context.Context, a authorizer.Attributes, node string) (string, error) {
	if a.GetVerb() == "list" || a.GetVerb() == "watch" {
		selector, err := a.GetFieldSelector()
		if err != nil {
			return "", err
		}
		for _, r := range selector {
			if r.Field == "spec.nodeName" && r.Value == node && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) {
				return "", nil
			}
		}
		return "can only list/watch pods with spec.nodeName field selector", nil
	}
	return n.refuseUnless(ctx, a, node, func(p corev1.Pod) bool { return p.Name == a.GetName() })
}

// refuseUnless refuses where no pod of the node in the request's namespace is such. A node hears of a new pod by its watch, which
// may be ahead of the cache that is asked first.
func (n nodes) refuseUnless(ctx context.Context, a authorizer.Attributes, node string, such func(corev1.Pod) bool) (string, error) {
	for _, fresh := range []bool{false, true} {
		pods, err := n.pods(ctx, a.GetNamespace(), node, fresh)
		if err != nil {
			return "", err
		}
		if slices.ContainsFunc(pods, such) {
			return "", nil
		}
	}
	return fmt.Sprintf("no relationship found between node '%s' and this object", node), nil
}

// refers says whether the pod refers to the object of that name in its namespace.
func refers(p *corev1.Pod, resource, name string) bool {
	switch resource {
	case "serviceaccounts/token":
		return p.Spec.ServiceAccountName == name
	case "secrets":
		return refersToSecret(p, name)
	}
	return refersToConfigMap(p, name)
}

func refersToSecret(p *corev1.Pod, name string) bool {
	for _, r := range p.Spec.ImagePullSecrets {
		if r.Name == name {
			return true
		}
	}
	for _, v := range p.Spec.Volumes {
		if v.Secret != nil && v.Secret.SecretName == name {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.Secret != nil && s.Secret.Name == name {
				return true
			}
		}
	}
	return inEnv(p, func(e corev1.EnvVar) bool {
		return e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && e.ValueFrom.SecretKeyRef.Name == name
	}, func(e corev1.EnvFromSource) bool { return e.SecretRef != nil && e.SecretRef.Name == name })
}

func refersToConfigMap(p *corev1.Pod, name string) bool {
	for _, v := range p.Spec.Volumes {
		if v.ConfigMap != nil && v.ConfigMap.Name == name {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil && s.ConfigMap.Name == name {
				return true
			}
		}
	}
	return inEnv(p, func(e corev1.EnvVar) bool {
		return e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil && e.ValueFrom.ConfigMapKeyRef.Name == name
	}, func(e corev1.EnvFromSource) bool { return e.ConfigMapRef != nil && e.ConfigMapRef.Name == name })
}

// inEnv says whether a variable or a source of variables of any container is the one.
func inEnv(p *corev1.Pod, variable func(corev1.EnvVar) bool, source func(corev1.EnvFromSource) bool) bool {
	containers := slices.Concat(p.Spec.InitContainers, p.Spec.Containers)
	for _, c := range p.Spec.EphemeralContainers {
		containers = append(containers, corev1.Container(c.EphemeralContainerCommon))
	}
	for _, c := range containers {
		if slices.ContainsFunc(c.Env, variable) || slices.ContainsFunc(c.EnvFrom, source) {
			return true
		}
	}
	return false
}
