package apiserver_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	acautoscalingv1 "k8s.io/client-go/applyconfigurations/autoscaling/v1"
)

// podsLabelled select and template the same pods.
func podsLabelled(value string) (*metav1.LabelSelector, corev1.PodTemplateSpec) {
	labels := map[string]string{"app": value}
	return &metav1.LabelSelector{MatchLabels: labels}, corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "image"}}}}
}

func TestDeploymentScale(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	ctx, deployments := t.Context(), c.client.AppsV1().Deployments("default")
	selector, template := podsLabelled("d")
	d, err := deployments.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scale, err := deployments.GetScale(ctx, "d", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if scale.Spec.Replicas != 1 || scale.Status.Selector != "app=d" || scale.UID != d.UID || scale.ResourceVersion != d.ResourceVersion {
		t.Errorf("%+v", scale)
	}
	stale := scale.DeepCopy()
	scale.Spec.Replicas = 3
	if scale, err = deployments.UpdateScale(ctx, "d", scale, metav1.UpdateOptions{}); err != nil || scale.Spec.Replicas != 3 {
		t.Fatalf("%v, %v", scale, err)
	}
	_, err = deployments.UpdateScale(ctx, "d", stale, metav1.UpdateOptions{})
	wantError(t, err, metav1.StatusReasonConflict, "the object has been modified")
	scale.Spec.Replicas = -1
	_, err = deployments.UpdateScale(ctx, "d", scale, metav1.UpdateOptions{})
	wantError(t, err, metav1.StatusReasonInvalid, "spec.replicas: Invalid value: -1: must be greater than or equal to 0")
	_, err = deployments.UpdateScale(ctx, "absent", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "absent"}}, metav1.UpdateOptions{})
	wantError(t, err, metav1.StatusReasonNotFound, `"absent" not found`)

	if _, err := deployments.Patch(ctx, "d", types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{FieldManager: "patcher"}, "scale"); err != nil {
		t.Fatal(err)
	}
	apply := acautoscalingv1.Scale().WithSpec(acautoscalingv1.ScaleSpec().WithReplicas(5))
	_, err = deployments.ApplyScale(ctx, "d", apply, metav1.ApplyOptions{FieldManager: "applier"})
	wantError(t, err, metav1.StatusReasonConflict, `conflict with "patcher"`)
	if _, err := deployments.ApplyScale(ctx, "d", apply, metav1.ApplyOptions{FieldManager: "applier", Force: true}); err != nil {
		t.Fatal(err)
	}
	if d, err = deployments.Get(ctx, "d", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if *d.Spec.Replicas != 5 || d.Generation != 4 {
		t.Errorf("replicas %d, generation %d", *d.Spec.Replicas, d.Generation)
	}
	for _, entry := range d.ManagedFields {
		owns := strings.Contains(entry.FieldsV1.GetRawString(), `"f:replicas"`)
		if owns != (entry.Manager == "applier") || owns && entry.Subresource != "scale" {
			t.Errorf("%s (%s) owns %s", entry.Manager, entry.Subresource, entry.FieldsV1)
		}
	}
}

func TestReplicaSetScale(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	ctx, sets := t.Context(), c.client.AppsV1().ReplicaSets("default")
	selector, template := podsLabelled("r")
	if _, err := sets.Create(ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Without a resourceVersion the newest one is scaled.
	scale, err := sets.UpdateScale(ctx, "r", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: autoscalingv1.ScaleSpec{Replicas: 0}}, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil || scale.Spec.Replicas != 0 {
		t.Errorf("%v, %v", scale, err)
	}
	if scale, err = sets.GetScale(ctx, "r", metav1.GetOptions{}); err != nil || scale.Spec.Replicas != 1 {
		t.Errorf("after a dry run: %v, %v", scale, err)
	}
}
