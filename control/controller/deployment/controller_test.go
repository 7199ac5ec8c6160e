package deployment_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/control/controller/deployment"
	"github.com/skep-io/skep/control/controller/replicaset"
)

// world runs both loops on a fake API server. Pods become ready when a test says so.
type world struct {
	t      *testing.T
	client *fake.Clientset
}

func newWorld(t *testing.T) *world {
	client := fake.NewClientset()
	serial := 0
	// What the API server does and the fake does not: names from prefixes, UIDs and resource versions. The fake calls this under its lock.
	client.PrependReactor("create", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		obj, ok := action.(clienttesting.CreateAction).GetObject().(metav1.Object)
		if !ok {
			return false, nil, nil
		}
		serial++
		if obj.GetName() == "" {
			obj.SetName(fmt.Sprintf("%s%d", obj.GetGenerateName(), serial))
		}
		obj.SetUID(types.UID(fmt.Sprint("uid", serial)))
		obj.SetCreationTimestamp(metav1.Now())
		return false, nil, nil
	})
	client.PrependReactor("update", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if obj, ok := action.(clienttesting.UpdateAction).GetObject().(metav1.Object); ok {
			serial++
			obj.SetResourceVersion(fmt.Sprint(serial))
		}
		return false, nil, nil
	})
	factory := informers.NewSharedInformerFactory(client, 0)
	logger := slog.New(slog.DiscardHandler)
	sets, err := replicaset.New(client, factory, &record.FakeRecorder{}, logger)
	if err != nil {
		t.Fatal(err)
	}
	deployments, err := deployment.New(client, factory, &record.FakeRecorder{}, logger)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, 2)
	factory.Start(ctx.Done())
	go func() { sets.Run(ctx); done <- struct{}{} }()
	go func() { deployments.Run(ctx); done <- struct{}{} }()
	t.Cleanup(func() { cancel(); <-done; <-done; factory.Shutdown() })
	synctest.Wait()
	return &world{t: t, client: client}
}

// settle lets the loops work until nothing changes, retries of conflicts included. The clock is the bubble's.
func (w *world) settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

func (w *world) deployment() *appsv1.Deployment {
	d, err := w.client.AppsV1().Deployments("default").Get(w.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) update(change func(*appsv1.Deployment)) {
	d := w.deployment()
	change(d)
	d.Generation++
	if _, err := w.client.AppsV1().Deployments("default").Update(w.t.Context(), d, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
}

// pods counts the pods by image.
func (w *world) pods() map[string]int {
	list, err := w.client.CoreV1().Pods("default").List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	counts := map[string]int{}
	for i := range list.Items {
		counts[list.Items[i].Spec.Containers[0].Image]++
	}
	return counts
}

// ready makes up to count pods of the image ready.
func (w *world) ready(image string, count int) {
	list, err := w.client.CoreV1().Pods("default").List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range list.Items {
		pod := &list.Items[i]
		if count == 0 || pod.Spec.Containers[0].Image != image || len(pod.Status.Conditions) > 0 {
			continue
		}
		count--
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		if _, err := w.client.CoreV1().Pods("default").UpdateStatus(w.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			w.t.Fatal(err)
		}
	}
	w.settle()
}

func (w *world) want(when string, pods map[string]int, reason string) {
	w.t.Helper()
	if got := w.pods(); fmt.Sprint(got) != fmt.Sprint(pods) {
		w.t.Errorf("%s: pods %v, want %v", when, got, pods)
	}
	for _, c := range w.deployment().Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing && c.Reason != reason {
			w.t.Errorf("%s: Progressing has reason %s, want %s", when, c.Reason, reason)
		}
	}
}

func (w *world) create(replicas int32, strategy appsv1.DeploymentStrategy) {
	labels := map[string]string{"app": "web"}
	deadline, history := int32(600), int32(10)
	_, err := w.client.AppsV1().Deployments("default").Create(w.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Strategy: strategy,
			ProgressDeadlineSeconds: &deadline, RevisionHistoryLimit: &history,
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "one"}}},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.settle()
}

func rolling(surge, unavailable int32) appsv1.DeploymentStrategy {
	up, down := intstr.FromInt32(surge), intstr.FromInt32(unavailable)
	return appsv1.DeploymentStrategy{
		Type:          appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &up, MaxUnavailable: &down},
	}
}

func image(name string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = name }
}

func TestRollingUpdateAndRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create(3, rolling(1, 0))
		w.want("created", map[string]int{"one": 3}, "ReplicaSetUpdated")
		w.ready("one", 3)
		w.want("first rollout", map[string]int{"one": 3}, "NewReplicaSetAvailable")
		w.update(image("two"))
		w.want("surge", map[string]int{"one": 3, "two": 1}, "ReplicaSetUpdated")
		w.ready("two", 1)
		w.want("one replaced", map[string]int{"one": 2, "two": 2}, "ReplicaSetUpdated")
		w.ready("two", 1)
		w.ready("two", 1)
		w.want("all replaced", map[string]int{"two": 3}, "NewReplicaSetAvailable")
		d := w.deployment()
		if got := d.Annotations["deployment.kubernetes.io/revision"]; got != "2" {
			t.Errorf("revision %q, want 2", got)
		}
		if s := d.Status; s.ObservedGeneration != 2 || s.Replicas != 3 || s.UpdatedReplicas != 3 || s.ReadyReplicas != 3 || s.AvailableReplicas != 3 || s.UnavailableReplicas != 0 {
			t.Errorf("status %+v", s)
		}
		w.update(image("one"))
		for range 3 {
			w.ready("one", 3)
		}
		w.want("rolled back", map[string]int{"one": 3}, "NewReplicaSetAvailable")
		sets, err := w.client.AppsV1().ReplicaSets("default").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(sets.Items) != 2 {
			t.Fatalf("%d ReplicaSets, %v", len(sets.Items), err)
		}
		if got := w.deployment().Annotations["deployment.kubernetes.io/revision"]; got != "3" {
			t.Errorf("revision after the rollback %q, want 3", got)
		}
	})
}

func TestRecreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create(2, appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType})
		w.ready("one", 2)
		w.update(image("two"))
		if got := w.pods(); got["one"] != 0 || got["two"] != 2 {
			t.Errorf("recreated: pods %v", got)
		}
		w.ready("two", 2)
		w.want("available", map[string]int{"two": 2}, "NewReplicaSetAvailable")
	})
}

func TestPauseScaleDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create(2, rolling(1, 0))
		w.ready("one", 2)
		w.update(func(d *appsv1.Deployment) { d.Spec.Paused = true; image("two")(d) })
		w.want("paused", map[string]int{"one": 2}, "DeploymentPaused")
		w.update(func(d *appsv1.Deployment) { *d.Spec.Replicas = 4 })
		w.want("scaled while paused", map[string]int{"one": 4}, "DeploymentPaused")
		w.update(func(d *appsv1.Deployment) { d.Spec.Paused = false })
		if got := w.pods()["two"]; got != 1 {
			t.Errorf("%d new pods after resume, want 1", got)
		}
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		w.want("stuck", map[string]int{"one": 4, "two": 1}, "ProgressDeadlineExceeded")
	})
}
