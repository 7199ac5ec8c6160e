// Package policy holds the roles and bindings that every cluster has, as upstream names them.
package policy

import (
	"maps"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Labels and annotations of what this package makes.
var (
	labels      = map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"}
	annotations = map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"}
)

const (
	// aggregateTo and the name of a gathering role make the label of what it gathers.
	aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"

	readVerbs  = "get list watch"
	writeVerbs = "create delete deletecollection patch update"
	everyone   = "system:authenticated"
	nobody     = "system:unauthenticated"
)

func resources(verbs, groups string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), APIGroups: strings.Split(groups, ","), Resources: names}
}

func paths(urls ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: urls}
}

func role(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: maps.Clone(labels), Annotations: maps.Clone(annotations)}, Rules: rules}
}

// gathering is a role that has the rules of all parts, its own and whatever others add by the label. into is the role that it is
// itself a part of, if any.
func gathering(name, into string) *rbacv1.ClusterRole {
	r := role(name)
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{aggregateTo + name: "true"}}}}
	if into != "" {
		r.Labels[aggregateTo+into] = "true"
	}
	return r
}

// part holds the default rules of a gathering role.
func part(of string, rules []rbacv1.PolicyRule) *rbacv1.ClusterRole {
	r := role("system:aggregate-to-"+of, rules...)
	r.Labels[aggregateTo+of] = "true"
	return r
}

// Node are the rules of every node. Those that concern single objects are narrowed by the authorizer of nodes and by admission.
func Node() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		resources("create", "authentication.k8s.io", "tokenreviews"),
		resources("create", "authorization.k8s.io", "subjectaccessreviews", "localsubjectaccessreviews"),
		resources(readVerbs, "", "services", "namespaces", "endpoints"),
		resources(readVerbs, "discovery.k8s.io", "endpointslices"),
		resources("create get list watch update patch", "", "nodes"),
		resources("update patch", "", "nodes/status"),
		resources("create update patch", ",events.k8s.io", "events"),
		resources("get list watch delete", "", "pods"),
		resources("update patch", "", "pods/status"),
		resources("create", "", "pods/eviction"),
		resources(readVerbs, "", "secrets", "configmaps"),
		resources("create", "", "serviceaccounts/token"),
		resources("get create update patch delete", "coordination.k8s.io", "leases"),
	}
}

// ClusterRoles are the default roles. The caller owns them.
func ClusterRoles() []*rbacv1.ClusterRole {
	view := []rbacv1.PolicyRule{
		resources(readVerbs, "", "configmaps", "endpoints", "pods", "serviceaccounts", "services", "services/status", "bindings", "namespaces/status", "pods/log", "pods/status", "namespaces"),
		resources(readVerbs, "apps", "deployments", "deployments/scale", "deployments/status", "replicasets", "replicasets/scale", "replicasets/status"),
		resources(readVerbs, "discovery.k8s.io", "endpointslices"),
		resources(readVerbs, "networking.k8s.io", "networkpolicies"),
		resources(readVerbs, ",events.k8s.io", "events"),
	}
	edit := []rbacv1.PolicyRule{
		resources(readVerbs, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
		resources("impersonate", "", "serviceaccounts"),
		resources(writeVerbs, "", "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"),
		resources("create", "", "pods/eviction", "serviceaccounts/token"),
		resources(writeVerbs, "", "configmaps", "secrets", "serviceaccounts", "services", "services/proxy"),
		resources(writeVerbs, ",events.k8s.io", "events"),
		resources(writeVerbs, "apps", "deployments", "deployments/rollback", "deployments/scale", "replicasets", "replicasets/scale"),
		resources(readVerbs+" "+writeVerbs, "coordination.k8s.io", "leases"),
		resources(writeVerbs, "networking.k8s.io", "networkpolicies"),
	}
	admin := []rbacv1.PolicyRule{
		resources("create", "authorization.k8s.io", "localsubjectaccessreviews"),
		resources(readVerbs+" "+writeVerbs, "rbac.authorization.k8s.io", "rolebindings", "roles"),
	}
	discovery := []string{"/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"}
	recordEvents := resources("create patch update", ",events.k8s.io", "events")
	return []*rbacv1.ClusterRole{
		role("cluster-admin", resources("*", "*", "*"), rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}),
		gathering("admin", ""),
		gathering("edit", "admin"),
		gathering("view", "edit"),
		part("admin", admin),
		part("edit", edit),
		part("view", view),
		role("system:discovery", paths(discovery...)),
		role("system:public-info-viewer", paths("/healthz", "/livez", "/readyz", "/version", "/version/")),
		role("system:monitoring", paths("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*"), resources("get", "", "nodes/metrics")),
		role("system:basic-user",
			resources("create", "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			resources("create", "authentication.k8s.io", "selfsubjectreviews")),
		role("system:auth-delegator", resources("create", "authentication.k8s.io", "tokenreviews"), resources("create", "authorization.k8s.io", "subjectaccessreviews")),
		role("system:service-account-issuer-discovery", paths("/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/")),
		role("system:node", Node()...),
		role("system:node-network",
			resources("list watch", "", "pods", "namespaces"), resources("list watch", "networking.k8s.io", "networkpolicies"), resources("patch", "", "services/status")),
		role("system:node-proxier",
			resources("list watch", "", "services", "endpoints"), resources(readVerbs, "", "nodes"), recordEvents, resources("list watch", "discovery.k8s.io", "endpointslices")),
		role("system:kube-dns", resources("list watch", "", "endpoints", "services")),
		role("system:kubelet-api-admin",
			resources(readVerbs, "", "nodes"), resources("proxy", "", "nodes"),
			resources("*", "", "nodes/proxy", "nodes/metrics", "nodes/stats", "nodes/log", "nodes/pods", "nodes/healthz", "nodes/configz")),
	}
}

// binding binds the role of its name.
func binding(name string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: maps.Clone(labels), Annotations: maps.Clone(annotations)},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   subjects,
	}
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

// ClusterRoleBindings are the default bindings. The caller owns them.
func ClusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	return []*rbacv1.ClusterRoleBinding{
		binding("cluster-admin", group("system:masters")),
		binding("system:discovery", group(everyone)),
		binding("system:basic-user", group(everyone)),
		binding("system:public-info-viewer", group(everyone), group(nobody)),
		binding("system:monitoring", group("system:monitoring")),
		binding("system:service-account-issuer-discovery", group("system:serviceaccounts")),
		// Nodes have their own authorizer; an empty binding says that the role is not forgotten.
		binding("system:node"),
		// The network of a node enforces policies, which speak of pods of all nodes.
		binding("system:node-network", group("system:nodes")),
		binding("system:node-proxier", rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "system:kube-proxy"}),
		binding("system:kube-dns", rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: "kube-dns"}),
	}
}
