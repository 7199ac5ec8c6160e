package api

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func deployment(change func(*appsv1.Deployment)) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "n"}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
	d.Spec.Template = template()
	d.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyAlways
	if change != nil {
		change(d)
	}
	defaultDeployment(d)
	return d
}

func TestDeploymentDefaults(t *testing.T) {
	d := deployment(nil)
	if *d.Spec.Replicas != 1 || *d.Spec.RevisionHistoryLimit != 10 || *d.Spec.ProgressDeadlineSeconds != 600 ||
		d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType ||
		d.Spec.Strategy.RollingUpdate.MaxSurge.String() != "25%" || d.Spec.Strategy.RollingUpdate.MaxUnavailable.String() != "25%" {
		t.Errorf("defaults %+v", d.Spec)
	}
	if d := deployment(func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType }); d.Spec.Strategy.RollingUpdate != nil {
		t.Error("Recreate was given rolling parameters")
	}
}

func TestValidateDeployment(t *testing.T) {
	rolling := func(unavailable, surge intstr.IntOrString) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: &unavailable, MaxSurge: &surge}
		}
	}
	for _, c := range []struct {
		name   string
		change func(*appsv1.Deployment)
		want   []string
	}{
		{"valid", nil, nil},
		{"replicas", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](-1) },
			[]string{"spec.replicas: Invalid value: -1: must be greater than or equal to 0"}},
		{"no selector", func(d *appsv1.Deployment) { d.Spec.Selector = nil }, []string{"spec.selector: Required value", "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`"}},
		{"other labels", func(d *appsv1.Deployment) { d.Spec.Template.Labels = map[string]string{"app": "b"} },
			[]string{"spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`"}},
		{"restart policy", func(d *appsv1.Deployment) { d.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever },
			[]string{`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`}},
		{"no progress possible", rolling(intstr.FromInt32(0), intstr.FromString("0%")),
			[]string{"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"}},
		{"more than all", rolling(intstr.FromString("101%"), intstr.FromInt32(1)),
			[]string{`spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%`}},
		{"no percentage", rolling(intstr.FromInt32(1), intstr.FromString("x")),
			[]string{`spec.strategy.rollingUpdate.maxSurge: Invalid value: "x": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')`}},
		{"recreate with parameters", func(d *appsv1.Deployment) {
			d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{}}
		}, []string{"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"}},
		{"deadline", func(d *appsv1.Deployment) {
			d.Spec.MinReadySeconds, d.Spec.ProgressDeadlineSeconds = 10, ptr.To[int32](10)
		},
			[]string{"spec.progressDeadlineSeconds: Invalid value: 10: must be greater than minReadySeconds"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := validateDeployment(deployment(c.change))
			errorTexts(t, got, c.want...)
		})
	}
}

func TestDeploymentGeneration(t *testing.T) {
	old := deployment(nil)
	old.Generation = 4
	for name, c := range map[string]struct {
		change func(*appsv1.Deployment)
		want   int64
	}{
		"nothing":    {func(*appsv1.Deployment) {}, 4},
		"label":      {func(d *appsv1.Deployment) { d.Labels = map[string]string{"a": "b"} }, 4},
		"status":     {func(d *appsv1.Deployment) { d.Status.Replicas = 9 }, 4},
		"annotation": {func(d *appsv1.Deployment) { d.Annotations = map[string]string{"a": "b"} }, 5},
		"spec":       {func(d *appsv1.Deployment) { d.Spec.Paused = true }, 5},
	} {
		d := old.DeepCopy()
		c.change(d)
		prepareDeployment(d, old)
		if d.Generation != c.want || d.Status.Replicas != 0 {
			t.Errorf("%s: generation %d, want %d; status %+v", name, d.Generation, c.want, d.Status)
		}
	}
}

func TestDeploymentStatus(t *testing.T) {
	old := deployment(nil)
	old.Status.CollisionCount = ptr.To[int32](2)
	d := old.DeepCopy()
	d.Status = appsv1.DeploymentStatus{Replicas: 1, ReadyReplicas: 1, AvailableReplicas: 2, CollisionCount: ptr.To[int32](1)}
	errorTexts(t, validateDeploymentStatus(d, old),
		"status.availableReplicas: Invalid value: 2: cannot be greater than status.replicas",
		"status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas",
		"status.collisionCount: Invalid value: 1: cannot be decremented")
}
