package policy_test

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skep-io/skep/control/apiserver/authorization/policy"
)

func TestEnsureIsIdempotent(t *testing.T) {
	client := fake.NewClientset()
	for range 2 {
		if err := policy.Ensure(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}
	writes := 0
	for _, a := range client.Actions() {
		if a.GetVerb() == "create" || a.GetVerb() == "update" {
			writes++
		}
	}
	if want := len(policy.ClusterRoles()) + len(policy.ClusterRoleBindings()); writes != want {
		t.Errorf("%d writes, not %d", writes, want)
	}
}

func TestEnsureRepairs(t *testing.T) {
	client := fake.NewClientset()
	roles, bindings := client.RbacV1().ClusterRoles(), client.RbacV1().ClusterRoleBindings()
	if err := policy.Ensure(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	changeRole := func(name string, change func(*rbacv1.ClusterRole)) {
		r, err := roles.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		change(r)
		if _, err := roles.Update(t.Context(), r, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	added := rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/extra"}}
	changeRole("system:discovery", func(r *rbacv1.ClusterRole) { r.Rules = []rbacv1.PolicyRule{added} })
	changeRole("system:basic-user", func(r *rbacv1.ClusterRole) {
		r.Rules, r.Annotations = nil, map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}
	})
	// As it was before roles gathered.
	changeRole("view", func(r *rbacv1.ClusterRole) { r.AggregationRule, r.Labels = nil, nil })
	changeBinding := func(name string, change func(*rbacv1.ClusterRoleBinding)) {
		b, err := bindings.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		change(b)
		if _, err := bindings.Update(t.Context(), b, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mine := rbacv1.Subject{Kind: "User", Name: "ann"}
	changeBinding("system:public-info-viewer", func(b *rbacv1.ClusterRoleBinding) { b.Subjects = []rbacv1.Subject{mine, b.Subjects[1]} })
	if err := policy.Ensure(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	if r, _ := roles.Get(t.Context(), "system:discovery", metav1.GetOptions{}); len(r.Rules) < 2 || r.Rules[0].NonResourceURLs[0] != "/extra" {
		t.Errorf("rules %v", r.Rules)
	}
	if r, _ := roles.Get(t.Context(), "system:basic-user", metav1.GetOptions{}); len(r.Rules) != 0 {
		t.Errorf("a role that is to be left alone has the rules %v", r.Rules)
	}
	if r, _ := roles.Get(t.Context(), "view", metav1.GetOptions{}); r.AggregationRule == nil || r.Labels["rbac.authorization.k8s.io/aggregate-to-edit"] != "true" {
		t.Errorf("view is part of nothing and has no parts: %+v", r)
	}
	b, _ := bindings.Get(t.Context(), "system:public-info-viewer", metav1.GetOptions{})
	if len(b.Subjects) != 3 || b.Subjects[0] != mine || b.Subjects[2].Name != "system:authenticated" {
		t.Errorf("subjects %v", b.Subjects)
	}
}
