// Package authorization decides who may do what: administrators everything, nodes what their pods need, everybody else what the
// RBAC objects grant.
package authorization

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// allows says whether a rule covers the request.
func allows(a authorizer.Attributes, rule *rbacv1.PolicyRule) bool {
	if !matches(rule.Verbs, rbacv1.VerbAll, a.GetVerb()) {
		return false
	}
	if !a.IsResourceRequest() {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool {
			prefix, wild := strings.CutSuffix(pattern, "*")
			return pattern == a.GetPath() || wild && strings.HasPrefix(a.GetPath(), prefix)
		})
	}
	return matches(rule.APIGroups, rbacv1.APIGroupAll, a.GetAPIGroup()) && matchesResource(rule, a.GetResource(), a.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.GetName()))
}

func matches(have []string, all, want string) bool {
	return slices.Contains(have, all) || slices.Contains(have, want)
}

// matchesResource takes "pods", "pods/log", "*" and "*/scale".
func matchesResource(rule *rbacv1.PolicyRule, resource, sub string) bool {
	full := resource
	if sub != "" {
		full += "/" + sub
	}
	return slices.ContainsFunc(rule.Resources, func(r string) bool {
		return r == rbacv1.ResourceAll || r == full || sub != "" && r == "*/"+sub
	})
}
