package deployment

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func testDeployment(replicas int32, surge, unavailable string) *appsv1.Deployment {
	up, down := intstr.Parse(surge), intstr.Parse(unavailable)
	deadline, history := int32(600), int32(10)
	labels := map[string]string{"app": "a"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default", UID: "d", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &up, MaxUnavailable: &down},
			},
			ProgressDeadlineSeconds: &deadline,
			RevisionHistoryLimit:    &history,
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "one"}}},
			},
		},
	}
}

// set is a ReplicaSet of that size, available and age (a higher number is younger), scaled for a Deployment of the given maximum.
func set(age int, size, available, maximum int32) *appsv1.ReplicaSet {
	name := fmt.Sprint("rs", age)
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(time.Unix(int64(age), 0)),
			Annotations: map[string]string{maxReplicasAnnotation: strconv.Itoa(int(maximum))},
		},
		Spec:   appsv1.ReplicaSetSpec{Replicas: &size},
		Status: appsv1.ReplicaSetStatus{Replicas: size, ReadyReplicas: available, AvailableReplicas: available},
	}
}

func sizes(changes []resize) map[string]int32 {
	result := map[string]int32{}
	for _, change := range changes {
		result[change.rs.Name] = change.to
	}
	return result
}

func TestLimits(t *testing.T) {
	cases := []struct {
		replicas           int32
		surge, unavailable string
		wantUp, wantDown   int32
	}{
		{10, "25%", "25%", 3, 2},
		{1, "25%", "25%", 1, 0},
		{10, "0", "0", 0, 1},
		{3, "0%", "10%", 0, 1},
		{4, "2", "50%", 2, 2},
	}
	for _, tc := range cases {
		up, down := limits(testDeployment(tc.replicas, tc.surge, tc.unavailable))
		if up != tc.wantUp || down != tc.wantDown {
			t.Errorf("%+v: got %d, %d", tc, up, down)
		}
	}
}

func TestCurrentSize(t *testing.T) {
	cases := []struct {
		name          string
		replicas      int32
		surge         string
		current, old  int32
		want          int32
		strategyToUse appsv1.DeploymentStrategyType
	}{
		{"first rollout", 3, "25%", 0, 0, 3, appsv1.RollingUpdateDeploymentStrategyType},
		{"surge only", 10, "3", 0, 10, 3, appsv1.RollingUpdateDeploymentStrategyType},
		{"no room", 10, "3", 3, 10, 3, appsv1.RollingUpdateDeploymentStrategyType},
		{"room after the old shrank", 10, "3", 3, 8, 5, appsv1.RollingUpdateDeploymentStrategyType},
		{"never more than wanted", 10, "3", 9, 0, 10, appsv1.RollingUpdateDeploymentStrategyType},
		{"too large", 10, "3", 12, 0, 10, appsv1.RollingUpdateDeploymentStrategyType},
		{"recreate takes all", 10, "0", 0, 0, 10, appsv1.RecreateDeploymentStrategyType},
	}
	for _, tc := range cases {
		d := testDeployment(tc.replicas, tc.surge, "0")
		d.Spec.Strategy.Type = tc.strategyToUse
		if got := currentSize(d, set(2, tc.current, 0, 0), []*appsv1.ReplicaSet{set(1, tc.old, 0, 0)}); got != tc.want {
			t.Errorf("%s: got %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestShrink(t *testing.T) {
	cases := []struct {
		name        string
		replicas    int32
		unavailable string
		current     *appsv1.ReplicaSet
		old         []*appsv1.ReplicaSet
		want        map[string]int32
	}{
		{"at once by maxUnavailable", 10, "2", set(2, 3, 0, 0), []*appsv1.ReplicaSet{set(1, 10, 10, 0)}, map[string]int32{"rs1": 8}},
		{"not below the minimum", 10, "2", set(2, 5, 0, 0), []*appsv1.ReplicaSet{set(1, 8, 8, 0)}, map[string]int32{}},
		{"as the new become available", 10, "2", set(2, 5, 5, 0), []*appsv1.ReplicaSet{set(1, 8, 8, 0)}, map[string]int32{"rs1": 3}},
		{"the unhealthy first", 10, "0", set(3, 2, 2, 0), []*appsv1.ReplicaSet{set(1, 8, 8, 0), set(2, 2, 0, 0)}, map[string]int32{"rs2": 0}},
		{"a lost old pod frees nothing while the new crash", 10, "2", set(2, 5, 0, 0), []*appsv1.ReplicaSet{set(1, 8, 7, 0)}, map[string]int32{}},
		{"zero down time", 1, "0", set(2, 1, 0, 0), []*appsv1.ReplicaSet{set(1, 1, 1, 0)}, map[string]int32{}},
		{"end", 1, "0", set(2, 1, 1, 0), []*appsv1.ReplicaSet{set(1, 1, 1, 0)}, map[string]int32{"rs1": 0}},
		{"oldest first", 4, "1", set(3, 2, 2, 0), []*appsv1.ReplicaSet{set(1, 1, 1, 0), set(2, 2, 2, 0)}, map[string]int32{"rs1": 0, "rs2": 1}},
	}
	for _, tc := range cases {
		got := sizes(shrink(testDeployment(tc.replicas, "25%", tc.unavailable), tc.current, tc.old))
		if fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestScale(t *testing.T) {
	cases := []struct {
		name     string
		replicas int32
		surge    string
		current  *appsv1.ReplicaSet
		old      []*appsv1.ReplicaSet
		want     map[string]int32
	}{
		{"one set takes all", 5, "0", set(2, 3, 3, 3), nil, map[string]int32{"rs2": 5}},
		{"the newest when none runs", 5, "0", nil, []*appsv1.ReplicaSet{set(1, 0, 0, 3), set(2, 0, 0, 3)}, map[string]int32{"rs2": 5}},
		{"up in proportion", 20, "0", set(2, 5, 5, 10), []*appsv1.ReplicaSet{set(1, 5, 5, 10)}, map[string]int32{"rs1": 10, "rs2": 10}},
		{"remainder to the largest", 12, "0", set(2, 3, 3, 10), []*appsv1.ReplicaSet{set(1, 7, 7, 10)}, map[string]int32{"rs1": 8, "rs2": 4}},
		{"down in proportion", 5, "0", set(2, 5, 5, 10), []*appsv1.ReplicaSet{set(1, 5, 5, 10)}, map[string]int32{"rs1": 2, "rs2": 3}},
		{"to nothing", 0, "0", set(2, 5, 5, 10), []*appsv1.ReplicaSet{set(1, 5, 5, 10)}, map[string]int32{"rs1": 0, "rs2": 0}},
	}
	for _, tc := range cases {
		got := sizes(scale(testDeployment(tc.replicas, tc.surge, "1"), tc.current, tc.old))
		if fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestHashCollisionChangesTheName(t *testing.T) {
	d := testDeployment(1, "1", "0")
	one := int32(1)
	first := newReplicaSet(d, 1).Name
	d.Status.CollisionCount = &one
	if second := newReplicaSet(d, 1).Name; first == second {
		t.Errorf("both are %s", first)
	}
}

func TestExpired(t *testing.T) {
	d := testDeployment(1, "1", "0")
	limit := int32(1)
	d.Spec.RevisionHistoryLimit = &limit
	var old []*appsv1.ReplicaSet
	for number := 3; number > 0; number-- {
		rs := set(number, 0, 0, 1)
		rs.Annotations[revisionAnnotation] = strconv.Itoa(number)
		old = append(old, rs)
	}
	old[2].Status.Replicas = 1 // revision 1 still has a pod
	if got := expired(d, old); len(got) != 1 || got[0].Name != "rs2" {
		t.Errorf("got %v", got)
	}
}
