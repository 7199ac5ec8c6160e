// Package policy holds the roles and bindings that every cluster has, as upstream names them.
package policy

import (
	"context"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Labels and annotations of what this package makes.
var (
	labels      = map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"}
	annotations = map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"}
)

const (
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
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, Annotations: annotations}, Rules: rules}
}

// ClusterRoles are the default roles. The caller owns them.
func ClusterRoles() []*rbacv1.ClusterRole {
	view := []rbacv1.PolicyRule{
		resources(readVerbs, "", "configmaps", "endpoints", "pods", "serviceaccounts", "services", "services/status", "bindings", "events", "namespaces/status", "pods/log", "pods/status", "namespaces"),
		resources(readVerbs, "apps", "deployments", "deployments/scale", "deployments/status", "replicasets", "replicasets/scale", "replicasets/status"),
		resources(readVerbs, "discovery.k8s.io", "endpointslices"),
		resources(readVerbs, "events.k8s.io", "events"),
	}
	edit := append([]rbacv1.PolicyRule{
		resources(readVerbs, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
		resources("impersonate", "", "serviceaccounts"),
		resources(writeVerbs, "", "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"),
		resources("create", "", "pods/eviction", "serviceaccounts/token"),
		resources(writeVerbs, "", "configmaps", "events", "secrets", "serviceaccounts", "services", "services/proxy"),
		resources(writeVerbs, "apps", "deployments", "deployments/rollback", "deployments/scale", "replicasets", "replicasets/scale"),
		resources(readVerbs+" "+writeVerbs, "coordination.k8s.io", "leases"),
	}, view...)
	admin := append([]rbacv1.PolicyRule{
		resources("create", "authorization.k8s.io", "localsubjectaccessreviews"),
		resources(readVerbs+" "+writeVerbs, "rbac.authorization.k8s.io", "rolebindings", "roles"),
	}, edit...)
	discovery := []string{"/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"}
	return []*rbacv1.ClusterRole{
		role("cluster-admin", resources("*", "*", "*"), rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}),
		role("admin", admin...),
		role("edit", edit...),
		role("view", view...),
		role("system:discovery", paths(discovery...)),
		role("system:public-info-viewer", paths("/healthz", "/livez", "/readyz", "/version", "/version/")),
		role("system:monitoring", paths("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*")),
		role("system:basic-user",
			resources("create", "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			resources("create", "authentication.k8s.io", "selfsubjectreviews")),
		role("system:auth-delegator", resources("create", "authentication.k8s.io", "tokenreviews"), resources("create", "authorization.k8s.io", "subjectaccessreviews")),
		role("system:service-account-issuer-discovery", paths("/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/")),
	}
}

func binding(name string, groups ...string) *rbacv1.ClusterRoleBinding {
	b := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, Annotations: annotations},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
	}
	for _, g := range groups {
		b.Subjects = append(b.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: g})
	}
	return b
}

// ClusterRoleBindings are the default bindings. The caller owns them.
func ClusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	return []*rbacv1.ClusterRoleBinding{
		binding("cluster-admin", "system:masters"),
		binding("system:discovery", everyone),
		binding("system:basic-user", everyone),
		binding("system:public-info-viewer", everyone, nobody),
		binding("system:monitoring", "system:monitoring"),
		binding("system:service-account-issuer-discovery", "system:serviceaccounts"),
	}
}

// Ensure makes what is missing and brings the rules of default roles up to date, unless an object's annotation says to leave it
// alone. When all is as it should be, two reads are all it does.
func Ensure(ctx context.Context, client kubernetes.Interface) error {
	roles := client.RbacV1().ClusterRoles()
	have, err := roles.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("default roles: %w", err)
	}
	known := map[string]*rbacv1.ClusterRole{}
	for i := range have.Items {
		known[have.Items[i].Name] = &have.Items[i]
	}
	for _, want := range ClusterRoles() {
		old := known[want.Name]
		switch {
		case old == nil:
			_, err = roles.Create(ctx, want, metav1.CreateOptions{})
		case old.Annotations[rbacv1.AutoUpdateAnnotationKey] == "true" && !equality.Semantic.DeepEqual(old.Rules, want.Rules):
			old.Rules = want.Rules
			_, err = roles.Update(ctx, old, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("default role %s: %w", want.Name, err)
		}
	}
	return ensureBindings(ctx, client)
}

func ensureBindings(ctx context.Context, client kubernetes.Interface) error {
	bindings := client.RbacV1().ClusterRoleBindings()
	have, err := bindings.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("default role bindings: %w", err)
	}
	known := map[string]bool{}
	for _, b := range have.Items {
		known[b.Name] = true
	}
	for _, want := range ClusterRoleBindings() {
		if known[want.Name] {
			continue
		}
		if _, err := bindings.Create(ctx, want, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("default role binding %s: %w", want.Name, err)
		}
	}
	return nil
}
