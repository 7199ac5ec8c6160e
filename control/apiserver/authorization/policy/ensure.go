package policy

import (
	"context"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// Ensure makes the default roles and bindings that are missing, and gives back to the others the rules and subjects that they
// lack; what somebody added stays, and so does an object whose annotation says to leave it alone. When all is as it should be,
// two reads are all it does.
func Ensure(ctx context.Context, client kubernetes.Interface) error {
	if err := ensureRoles(ctx, client); err != nil {
		return err
	}
	return ensureBindings(ctx, client)
}

func ensureRoles(ctx context.Context, client kubernetes.Interface) error {
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
		if old == nil {
			_, err = roles.Create(ctx, want, metav1.CreateOptions{})
		} else if kept(old) && complete(old, want) {
			_, err = roles.Update(ctx, old, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("default role %s: %w", want.Name, err)
		}
	}
	return nil
}

// complete gives a role what it lacks and says whether that was anything.
func complete(r, want *rbacv1.ClusterRole) bool {
	covered, missing := validation.Covers(r.Rules, want.Rules)
	r.Rules = append(r.Rules, missing...)
	if r.AggregationRule == nil && want.AggregationRule != nil {
		r.AggregationRule, covered = want.AggregationRule, false
	}
	for k, v := range want.Labels {
		if r.Labels[k] != v {
			covered = false
			metav1.SetMetaDataLabel(&r.ObjectMeta, k, v)
		}
	}
	return !covered
}

func ensureBindings(ctx context.Context, client kubernetes.Interface) error {
	bindings := client.RbacV1().ClusterRoleBindings()
	have, err := bindings.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("default role bindings: %w", err)
	}
	known := map[string]*rbacv1.ClusterRoleBinding{}
	for i := range have.Items {
		known[have.Items[i].Name] = &have.Items[i]
	}
	for _, want := range ClusterRoleBindings() {
		old := known[want.Name]
		if old == nil {
			_, err = bindings.Create(ctx, want, metav1.CreateOptions{})
		} else if missing := lacking(old.Subjects, want.Subjects); len(missing) > 0 && old.RoleRef == want.RoleRef && kept(old) {
			old.Subjects = append(old.Subjects, missing...)
			_, err = bindings.Update(ctx, old, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("default role binding %s: %w", want.Name, err)
		}
	}
	return nil
}

// kept says whether an object is to be kept up to date.
func kept(obj metav1.Object) bool {
	return obj.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "true"
}

// lacking are the wanted subjects that are not there.
func lacking(have, want []rbacv1.Subject) []rbacv1.Subject {
	return slices.DeleteFunc(slices.Clone(want), func(s rbacv1.Subject) bool { return slices.Contains(have, s) })
}
