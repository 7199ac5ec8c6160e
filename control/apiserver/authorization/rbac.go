package authorization

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
)

// RBAC evaluates the Role and ClusterRole objects and their bindings. It is safe for concurrent use.
type RBAC struct {
	roles           rbaclisters.RoleLister
	bindings        rbaclisters.RoleBindingLister
	clusterRoles    rbaclisters.ClusterRoleLister
	clusterBindings rbaclisters.ClusterRoleBindingLister
}

func newRBAC(factory informers.SharedInformerFactory) *RBAC {
	v1 := factory.Rbac().V1()
	return &RBAC{v1.Roles().Lister(), v1.RoleBindings().Lister(), v1.ClusterRoles().Lister(), v1.ClusterRoleBindings().Lister()}
}

// authorize implements authorizer.AuthorizerFunc. A rule that cannot be read does not hide the others.
func (r *RBAC) authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	var reason string
	var failed []error
	r.visit(a.GetUser(), a.GetNamespace(), func(source func() string, rule *rbacv1.PolicyRule, err error) bool {
		if err != nil {
			failed = append(failed, err)
		}
		if rule != nil && allows(a, rule) {
			reason = "RBAC: allowed by " + source()
			return false
		}
		return true
	})
	if reason != "" {
		return authorizer.DecisionAllow, reason, nil
	}
	if len(failed) > 0 {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(failed)), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// Rules are those that apply to the user in the namespace, cluster-wide ones included; with an error, those that could be read.
func (r *RBAC) Rules(u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	var failed []error
	r.visit(u, namespace, func(_ func() string, rule *rbacv1.PolicyRule, err error) bool {
		if err != nil {
			failed = append(failed, err)
		}
		if rule != nil {
			rules = append(rules, *rule)
		}
		return true
	})
	return rules, utilerrors.NewAggregate(failed)
}

// RulesFor implements authorizer.RuleResolver.
func (r *RBAC) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	rules, err := r.Rules(u, namespace)
	for _, rule := range rules {
		if len(rule.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames})
		}
		if len(rule.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
	}
	return resources, paths, false, err
}

// visitor sees one rule and where it comes from, or a failure. It returns false when it has seen enough.
type visitor func(source func() string, rule *rbacv1.PolicyRule, err error) bool

// visit calls see with every rule that applies to the user in the namespace, and with every failure, until see returns false.
func (r *RBAC) visit(u user.Info, namespace string, see visitor) {
	cluster, err := r.clusterBindings.List(labels.Everything())
	if err != nil && !see(nil, nil, err) {
		return
	}
	for _, b := range cluster {
		source := func(subject string) string {
			return fmt.Sprintf("ClusterRoleBinding %q of %s %q to %s", b.Name, b.RoleRef.Kind, b.RoleRef.Name, subject)
		}
		if !r.visitBinding(u, b.Subjects, b.RoleRef, "", source, see) {
			return
		}
	}
	if namespace == "" {
		return
	}
	local, err := r.bindings.RoleBindings(namespace).List(labels.Everything())
	if err != nil && !see(nil, nil, err) {
		return
	}
	for _, b := range local {
		source := func(subject string) string {
			return fmt.Sprintf("RoleBinding %q of %s %q to %s", b.Name+"/"+b.Namespace, b.RoleRef.Kind, b.RoleRef.Name, subject)
		}
		if !r.visitBinding(u, b.Subjects, b.RoleRef, namespace, source, see) {
			return
		}
	}
}

// visitBinding visits the rules of a binding's role if one of its subjects is the user. namespace is that of the binding.
func (r *RBAC) visitBinding(u user.Info, subjects []rbacv1.Subject, ref rbacv1.RoleRef, namespace string, source func(subject string) string, see visitor) bool {
	i := slices.IndexFunc(subjects, func(s rbacv1.Subject) bool { return applies(u, &s, namespace) })
	if i < 0 {
		return true
	}
	rules, err := r.rules(ref, namespace)
	if err != nil {
		return see(nil, nil, err)
	}
	for k := range rules {
		if !see(func() string { return source(subject(&subjects[i], namespace)) }, &rules[k], nil) {
			return false
		}
	}
	return true
}

func (r *RBAC) rules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
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

// applies says whether the subject of a binding is the user; namespace is that of the binding.
func applies(u user.Info, s *rbacv1.Subject, namespace string) bool {
	switch s.Kind {
	case rbacv1.UserKind:
		return u.GetName() == s.Name
	case rbacv1.GroupKind:
		return slices.Contains(u.GetGroups(), s.Name)
	case rbacv1.ServiceAccountKind:
		of := cmp.Or(s.Namespace, namespace)
		return of != "" && serviceaccount.MatchesUsername(of, s.Name, u.GetName())
	}
	return false
}

// subject describes a subject of a binding in the namespace.
func subject(s *rbacv1.Subject, namespace string) string {
	if s.Kind == rbacv1.ServiceAccountKind {
		return fmt.Sprintf("%s %q", s.Kind, s.Name+"/"+cmp.Or(s.Namespace, namespace))
	}
	return fmt.Sprintf("%s %q", s.Kind, s.Name)
}
