package api

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

func TestValidateRules(t *testing.T) {
	errorTexts(t, validateRules([]rbacv1.PolicyRule{
		{},
		{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}},
		{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}, Resources: []string{"y"}},
	}, true),
		"rules[0].verbs: Required value: verbs must contain at least one value",
		"rules[0].apiGroups: Required value: resource rules must supply at least one api group",
		"rules[0].resources: Required value: resource rules must supply at least one resource",
		`rules[1].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs`,
		`rules[2].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs`,
		`rules[2].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs`)
	errorTexts(t, validateClusterRole(&rbacv1.ClusterRole{AggregationRule: &rbacv1.AggregationRule{}}, false),
		"aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil")
}

func TestValidateBindings(t *testing.T) {
	b := &rbacv1.ClusterRoleBinding{
		RoleRef:  rbacv1.RoleRef{Kind: "Role", Name: "a/b"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "s"}, {Kind: "User", Name: "u"}, {Kind: "X"}},
	}
	defaultBinding(&b.RoleRef, b.Subjects)
	errorTexts(t, validateClusterRoleBinding(b),
		`roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"`,
		`roleRef.name: Invalid value: "a/b": may not contain '/'`,
		"subjects[0].namespace: Required value",
		"subjects[2].name: Required value",
		`subjects[2].kind: Unsupported value: "X": supported values: "ServiceAccount", "User", "Group"`)
}
