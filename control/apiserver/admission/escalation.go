package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/control/apiserver/authorization"
)

// escalation lets nobody grant what he does not hold himself, unless a rule lets him escalate the role or bind to it. Upstream
// does the same in the storage of the RBAC kinds.
type escalation struct {
	client     kubernetes.Interface
	authorizer authorizer.UnconditionalAuthorizer
	held       *authorization.RBAC
}

// everything is what one must hold to let a role gather other roles' rules.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

// Handles implements admission.Interface.
func (escalation) Handles(op admission.Operation) bool {
	return op == admission.Create || op == admission.Update
}

// Validate implements admission.ValidationInterface.
func (p escalation) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group != rbacv1.GroupName || a.GetUserInfo() == nil || slices.Contains(a.GetUserInfo().GetGroups(), user.SystemPrivilegedGroup) ||
		onlyOwnership(a.GetObject(), a.GetOldObject()) {
		return nil
	}
	switch o := a.GetObject().(type) {
	case *rbacv1.Role:
		return p.role(ctx, a, o.Rules, false)
	case *rbacv1.ClusterRole:
		old, _ := a.GetOldObject().(*rbacv1.ClusterRole)
		return p.role(ctx, a, o.Rules, aggregates(o) || aggregates(old))
	case *rbacv1.RoleBinding:
		return p.binding(ctx, a, o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return p.binding(ctx, a, o.RoleRef)
	}
	return nil
}

func aggregates(r *rbacv1.ClusterRole) bool {
	return r != nil && r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
}

// onlyOwnership says whether an update changes nothing but owners and finalizers, which a garbage collector must be able to do.
func onlyOwnership(after, before runtime.Object) bool {
	if before == nil {
		return false
	}
	after = after.DeepCopyObject()
	to, ok := after.(metav1.Object)
	from, ok2 := before.(metav1.Object)
	if !ok || !ok2 {
		return false
	}
	to.SetOwnerReferences(from.GetOwnerReferences())
	to.SetFinalizers(from.GetFinalizers())
	to.SetManagedFields(from.GetManagedFields())
	return equality.Semantic.DeepEqual(after, before)
}

// role checks the rules of a role that is written.
func (p escalation) role(ctx context.Context, a admission.Attributes, rules []rbacv1.PolicyRule, gathers bool) error {
	// The name is that of the request: a role that is created has none there, so that leave to escalate one role by name makes none.
	name := ""
	if info, ok := genericapirequest.RequestInfoFrom(ctx); ok {
		name = info.Name
	}
	if p.allowed(ctx, a, "escalate", a.GetResource().Resource, name) {
		return nil
	}
	if err := p.confirm(a, rules); err != nil {
		return forbid(a, err)
	}
	if gathers && p.confirm(a, everything) != nil {
		return forbid(a, errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

// binding checks the rules of the role that is bound. They are read from the store: who makes a role often binds it at once.
func (p escalation) binding(ctx context.Context, a admission.Attributes, ref rbacv1.RoleRef) error {
	resources := map[string]string{"Role": "roles", "ClusterRole": "clusterroles"}
	if p.allowed(ctx, a, "bind", resources[ref.Kind], ref.Name) {
		return nil
	}
	rules, err := p.rules(ctx, ref, a.GetNamespace())
	if err != nil {
		return err
	}
	if err := p.confirm(a, rules); err != nil {
		return forbid(a, err)
	}
	return nil
}

func (p escalation) rules(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		role, err := p.client.RbacV1().Roles(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case "ClusterRole":
		role, err := p.client.RbacV1().ClusterRoles().Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

// allowed says whether the user may use the verb on the role of that name, where he asks to.
func (p escalation) allowed(ctx context.Context, a admission.Attributes, verb, resource, name string) bool {
	if resource == "" {
		return false
	}
	decision, _, _ := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: verb, Namespace: a.GetNamespace(), APIGroup: rbacv1.GroupName, APIVersion: "*",
		Resource: resource, Name: name, ResourceRequest: true,
	})
	return decision == authorizer.DecisionAllow
}

// confirm returns an error that lists which of the rules the user does not hold where he asks to grant them.
func (p escalation) confirm(a admission.Attributes, rules []rbacv1.PolicyRule) error {
	who := a.GetUserInfo()
	held, failed := p.held.Rules(who, a.GetNamespace())
	missing := authorization.Missing(held, rules)
	if missing == "" {
		return nil
	}
	message := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", who.GetName(), who.GetGroups(), missing)
	if failed != nil {
		message += fmt.Sprintf("; resolution errors: %v", []error{failed})
	}
	return errors.New(message)
}

func forbid(a admission.Attributes, err error) error {
	return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), err)
}
