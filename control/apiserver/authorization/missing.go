package authorization

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// Missing describes which of the wanted rules are not covered by those that are held, one a line, nothing if all are. Rules that
// differ only by their verb are one line.
func Missing(held, wanted []rbacv1.PolicyRule) string {
	_, missing := validation.Covers(held, wanted)
	type target struct {
		group, resource, name string
		named                 bool
	}
	var lines []string
	merged := map[target]*rbacv1.PolicyRule{}
	for i := range missing {
		r := &missing[i]
		if len(r.NonResourceURLs) > 0 || len(r.APIGroups) != 1 || len(r.Resources) != 1 {
			lines = append(lines, describe(r))
			continue
		}
		key := target{r.APIGroups[0], r.Resources[0], strings.Join(r.ResourceNames, ","), len(r.ResourceNames) > 0}
		if one := merged[key]; one != nil {
			one.Verbs = append(one.Verbs, r.Verbs...)
		} else {
			merged[key] = r
		}
	}
	for r := range maps.Values(merged) {
		lines = append(lines, describe(r))
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}

// describe writes a rule as upstream does: {APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}.
func describe(r *rbacv1.PolicyRule) string {
	var parts []string
	for _, f := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs}, {"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs},
	} {
		if len(f.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", f.name, f.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
