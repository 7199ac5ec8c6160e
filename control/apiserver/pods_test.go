package apiserver_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// newPod makes a pod of the namespace default, with a container of each name. No controller runs, so it brings its own service
// account.
func newPod(t *testing.T, client kubernetes.Interface, name string, containers ...string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, c := range containers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c, Image: "image"})
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	pod, err := client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func bind(ctx context.Context, client kubernetes.Interface, pod, node string, change func(*corev1.Binding, *metav1.CreateOptions)) error {
	b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}
	var options metav1.CreateOptions
	if change != nil {
		change(b, &options)
	}
	return client.CoreV1().Pods("default").Bind(ctx, b, options)
}

// wantError checks that an error has the words and the reason.
func wantError(t *testing.T, err error, reason metav1.StatusReason, words string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) || apierrors.ReasonForError(err) != reason {
		t.Errorf("error %v (%s), want %q (%s)", err, apierrors.ReasonForError(err), words, reason)
	}
}

func TestBinding(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	ctx, pods := t.Context(), c.client.CoreV1().Pods("default")
	newPod(t, c.client, "p", "c")
	err := bind(ctx, c.client, "p", "n", func(b *corev1.Binding, _ *metav1.CreateOptions) { b.UID = "other" })
	wantError(t, err, metav1.StatusReasonConflict, "Precondition failed: UID in precondition: other")
	err = bind(ctx, c.client, "p", "n", func(b *corev1.Binding, _ *metav1.CreateOptions) { b.Target.Kind = "Moon" })
	wantError(t, err, metav1.StatusReasonUnknown, `target.kind: Unsupported value: "Moon"`)
	if err := bind(ctx, c.client, "p", "n", func(_ *corev1.Binding, o *metav1.CreateOptions) { o.DryRun = []string{metav1.DryRunAll} }); err != nil {
		t.Error(err)
	}
	if err := bind(ctx, c.client, "p", "n", func(b *corev1.Binding, _ *metav1.CreateOptions) { b.Annotations = map[string]string{"a": "b"} }); err != nil {
		t.Fatal(err)
	}
	pod, err := pods.Get(ctx, "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Spec.NodeName != "n" || pod.Annotations["a"] != "b" || len(pod.Status.Conditions) != 1 ||
		pod.Status.Conditions[0].Type != corev1.PodScheduled || pod.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("bound pod: node %q, annotations %v, conditions %v", pod.Spec.NodeName, pod.Annotations, pod.Status.Conditions)
	}
	wantError(t, bind(ctx, c.client, "p", "m", nil), metav1.StatusReasonConflict, `pod p is already assigned to node "n"`)
	wantError(t, bind(ctx, c.client, "absent", "m", nil), metav1.StatusReasonNotFound, `pods "absent" not found`)
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantError(t, bind(ctx, c.client, "p", "m", nil), metav1.StatusReasonConflict, "pod p is being deleted, cannot be assigned to a host")

	newPod(t, c.client, "q", "c")
	old := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "q", Namespace: "default"}, Target: corev1.ObjectReference{Name: "n"}}
	if err := c.client.CoreV1().RESTClient().Post().Namespace("default").Resource("bindings").Body(old).Do(ctx).Error(); err != nil {
		t.Errorf("bindings: %v", err)
	}
}

func TestEviction(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	ctx, pods := t.Context(), c.client.CoreV1().Pods("default")
	evict := func(name string, o *metav1.DeleteOptions) error {
		return pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, DeleteOptions: o})
	}
	pod := newPod(t, c.client, "p", "c")
	if err := bind(ctx, c.client, "p", "n", nil); err != nil {
		t.Fatal(err)
	}
	wantError(t, evict("absent", nil), metav1.StatusReasonNotFound, `pods "absent" not found`)
	stale := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &pod.ResourceVersion}}
	wantError(t, evict("p", stale), metav1.StatusReasonConflict, "does not match the ResourceVersion in record")
	if err := evict("p", &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Error(err)
	}
	if pod, err := pods.Get(ctx, "p", metav1.GetOptions{}); err != nil || pod.DeletionTimestamp != nil {
		t.Errorf("a dry run evicted the pod: %v", err)
	}
	if err := evict("p", nil); err != nil {
		t.Fatal(err)
	}
	pod, err := pods.Get(ctx, "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	last := pod.Status.Conditions[len(pod.Status.Conditions)-1]
	if pod.DeletionTimestamp == nil || *pod.DeletionGracePeriodSeconds != 30 || last.Type != corev1.DisruptionTarget || last.Reason != "EvictionByEvictionAPI" {
		t.Errorf("evicted pod: deleted %v, condition %v", pod.DeletionTimestamp, last)
	}
}
