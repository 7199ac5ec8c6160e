package authorization

import (
	"context"
	"errors"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
)

// rbac evaluates the Role and ClusterRole objects and their bindings. It is safe for concurrent use.
type rbac struct {
	roles           rbaclisters.RoleLister
	bindings        rbaclisters.RoleBindingLister
	clusterRoles    rbaclisters.ClusterRoleLister
	clusterBindings rbaclisters.ClusterRoleBindingLister
}

func newRBAC(factory informers.SharedInformerFactory) *rbac {
	v1 := factory.Rbac().V1()
	return &rbac{v1.Roles().Lister(), v1.RoleBindings().Lister(), v1.ClusterRoles().Lister(), v1.ClusterRoleBindings().Lister()}
}

// authorize implements authorizer.AuthorizerFunc. A rule that cannot be read does not hide the others.
func (r *rbac) authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	reason, err := "", error(nil)
	r.visit(a.GetUser(), a.GetNamespace(), func(source string, rule *rbacv1.PolicyRule, failed error) bool {
		err = errors.Join(err, failed)
		if rule != nil && allows(a, rule) {
			reason = "RBAC: allowed by " + source
			return false
		}
		return true
	})
	if reason != "" {
		return authorizer.DecisionAllow, reason, nil
	}
	if err != nil {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("RBAC: %v", err), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// RulesFor implements authorizer.RuleResolver.
func (r *rbac) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	var err error
	r.visit(u, namespace, func(_ string, rule *rbacv1.PolicyRule, failed error) bool {
		err = errors.Join(err, failed)
		switch {
		case rule == nil:
		case len(rule.Resources) > 0:
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames})
		case namespace != "" && len(rule.NonResourceURLs) > 0:
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
		return true
	})
	return resources, paths, false, err
}

// visit calls see with every rule that applies to the user in the namespace, and with every failure, until see returns false.
func (r *rbac) visit(u user.Info, namespace string, see func(source string, rule *rbacv1.PolicyRule, err error) bool) {
	cluster, err := r.clusterBindings.List(labels.Everything())
	if err != nil && !see("", nil, err) {
		return
	}
	for _, b := range cluster {
		if applies(u, b.Subjects, "") && !r.visitRole(b.RoleRef, "", fmt.Sprintf("ClusterRoleBinding %q of %s %q", b.Name, b.RoleRef.Kind, b.RoleRef.Name), see) {
			return
		}
	}
	if namespace == "" {
		return
	}
	local, err := r.bindings.RoleBindings(namespace).List(labels.Everything())
	if err != nil && !see("", nil, err) {
		return
	}
	for _, b := range local {
		if applies(u, b.Subjects, namespace) && !r.visitRole(b.RoleRef, namespace, fmt.Sprintf("RoleBinding %q of %s %q", b.Name+"/"+b.Namespace, b.RoleRef.Kind, b.RoleRef.Name), see) {
			return
		}
	}
}

func (r *rbac) visitRole(ref rbacv1.RoleRef, namespace, source string, see func(string, *rbacv1.PolicyRule, error) bool) bool {
	rules, err := r.rules(ref, namespace)
	if err != nil {
		return see(source, nil, err)
	}
	for i := range rules {
		if !see(source, &rules[i], nil) {
			return false
		}
	}
	return true
}

func (r *rbac) rules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		role, err := r.roles.Roles(namespace).Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case "ClusterRole":
		role, err := r.clusterRoles.Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

// applies says whether one of the subjects is the user; namespace is that of the binding.
func applies(u user.Info, subjects []rbacv1.Subject, namespace string) bool {
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			if u.GetName() == s.Name {
				return true
			}
		case rbacv1.GroupKind:
			for _, g := range u.GetGroups() {
				if g == s.Name {
					return true
				}
			}
		case rbacv1.ServiceAccountKind:
			of := s.Namespace
			if of == "" {
				of = namespace
			}
			if of != "" && serviceaccount.MatchesUsername(of, s.Name, u.GetName()) {
				return true
			}
		}
	}
	return false
}
