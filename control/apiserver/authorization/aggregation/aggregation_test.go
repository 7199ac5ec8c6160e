package aggregation

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func role(name string, labels map[string]string, verbs ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	for _, v := range verbs {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{v}})
	}
	return r
}

func gathering(name, label string, labels map[string]string, verbs ...string) *rbacv1.ClusterRole {
	r := role(name, labels, verbs...)
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": label}}}}
	return r
}

// A role gathers what is labelled for it, also through another that gathers, and loses what is gone.
func TestRolesGather(t *testing.T) {
	toView, toEdit := map[string]string{"to": "view"}, map[string]string{"to": "edit"}
	client := fake.NewClientset(gathering("view", "view", toEdit, "stale"), gathering("edit", "edit", nil),
		role("a", toView, "get", "list"), role("b", toView, "get"), role("c", toEdit, "update"), role("other", nil, "delete"))
	factory := informers.NewSharedInformerFactory(client, 0)
	a, err := New(client, factory.Rbac().V1().ClusterRoles(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	factory.StartWithContext(ctx)
	go func() { defer close(done); a.Run(ctx) }()
	defer func() { cancel(); <-done }()

	want := func(name string, verbs ...string) {
		t.Helper()
		var got []string
		err := wait.PollUntilContextTimeout(ctx, time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) {
			r, err := client.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			got = nil
			for _, rule := range r.Rules {
				got = append(got, rule.Verbs...)
			}
			return slices.Equal(got, verbs), nil
		})
		if err != nil {
			t.Errorf("%s has %v, want %v: %v", name, got, verbs, err)
		}
	}
	want("view", "get", "list")
	want("edit", "update", "get", "list")
	if err := client.RbacV1().ClusterRoles().Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("edit", "update", "get")
}

// A version that is too old is no failure: the watch brings the next.
func TestConflictIsNoFailure(t *testing.T) {
	client := fake.NewClientset(gathering("view", "view", nil), role("a", map[string]string{"to": "view"}, "get"))
	client.PrependReactor("update", "clusterroles", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewConflict(rbacv1.Resource("clusterroles"), "view", nil)
	})
	factory := informers.NewSharedInformerFactory(client, 0)
	a, err := New(client, factory.Rbac().V1().ClusterRoles(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	factory.StartWithContext(t.Context())
	if err := factory.WaitForCacheSyncWithContext(t.Context()).Err; err != nil {
		t.Fatal(err)
	}
	if err := a.aggregate(t.Context()); err != nil {
		t.Error(err)
	}
}
