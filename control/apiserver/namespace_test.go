package apiserver_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNamespaceDeletion(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	ctx, namespaces := t.Context(), c.client.CoreV1().Namespaces()
	if _, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	other := metav1.NewUIDPreconditions("other")
	wantError(t, namespaces.Delete(ctx, "n", metav1.DeleteOptions{Preconditions: other}), metav1.StatusReasonConflict, "Precondition failed: UID in precondition: other")
	for range 2 { // the second one changes nothing
		if err := namespaces.Delete(ctx, "n", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	n, err := namespaces.Get(ctx, "n", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n.DeletionTimestamp == nil || n.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("deleted at %v, phase %s", n.DeletionTimestamp, n.Status.Phase)
	}
	n.Status.Conditions = append(n.Status.Conditions, corev1.NamespaceCondition{Type: corev1.NamespaceDeletionContentFailure, Status: corev1.ConditionFalse})
	if n, err = namespaces.UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
		t.Fatalf("status of a Terminating namespace: %v", err)
	}
	n.Spec.Finalizers = []corev1.FinalizerName{"bad name"}
	_, err = namespaces.Finalize(ctx, n, metav1.UpdateOptions{})
	wantError(t, err, metav1.StatusReasonInvalid, "spec.finalizers[0]")
	n.Spec.Finalizers = nil
	if _, err := namespaces.Finalize(ctx, n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := namespaces.Get(ctx, "n", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the last finalizer: %v", err)
	}
}
