package controller_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/skep-io/skep/control/controller"
)

//lint:file-ignore SA1019 Endpoints are deprecated and served all the same: that is what this is about.

// newServer is a fake API server that also does what the loops rely on: names from prefixes, UIDs, resource versions, bindings.
func newServer() *fake.Clientset {
	client := fake.NewClientset()
	serial := 0
	number := func(action clienttesting.Action, obj runtime.Object) {
		meta, ok := obj.(metav1.Object)
		if !ok {
			return
		}
		serial++
		meta.SetResourceVersion(fmt.Sprint(serial))
		if action.GetVerb() != "create" {
			stored, err := client.Tracker().Get(action.GetResource(), action.GetNamespace(), meta.GetName())
			if err == nil {
				meta.SetUID(stored.(metav1.Object).GetUID())
			}
			return
		}
		if meta.GetName() == "" {
			meta.SetName(fmt.Sprintf("%s%d", meta.GetGenerateName(), serial))
		}
		meta.SetUID(types.UID(fmt.Sprint("uid", serial)))
		meta.SetCreationTimestamp(metav1.Now())
	}
	client.PrependReactor("create", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		obj := action.(clienttesting.CreateAction).GetObject()
		binding, ok := obj.(*corev1.Binding)
		if !ok {
			number(action, obj)
			return false, nil, nil
		}
		gvr := corev1.SchemeGroupVersion.WithResource("pods")
		stored, err := client.Tracker().Get(gvr, binding.Namespace, binding.Name)
		if err != nil {
			return true, nil, err
		}
		pod := stored.(*corev1.Pod).DeepCopy()
		pod.Spec.NodeName = binding.Target.Name
		pod.Status = corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.244.0.9", PodIPs: []corev1.PodIP{{IP: "10.244.0.9"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}},
		}
		serial++
		pod.ResourceVersion = fmt.Sprint(serial)
		return true, binding, client.Tracker().Update(gvr, pod, pod.Namespace)
	})
	client.PrependReactor("update", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		number(action, action.(clienttesting.UpdateAction).GetObject())
		return false, nil, nil
	})
	return client
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// TestFromDeploymentToEndpoints runs all loops together: what a user creates becomes a bound pod behind a Service.
func TestFromDeploymentToEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newServer()
		scheme := metadatafake.NewTestScheme()
		if err := metav1.AddMetaToScheme(scheme); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		factory := controller.NewInformers(client)
		done := make(chan error)
		go func() {
			done <- controller.Run(ctx, controller.Config{
				Client: client, Metadata: metadatafake.NewSimpleMetadataClient(scheme), Informers: factory,
				PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")}, RootCA: []byte("pem"), Logger: slog.New(slog.DiscardHandler),
			})
		}()
		create(ctx, t, client)
		time.Sleep(5 * time.Second) // of the bubble
		synctest.Wait()

		node := must[*corev1.Node](t)(client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{}))
		if node.Spec.PodCIDR != "10.244.0.0/24" || !slices.Equal(node.Spec.PodCIDRs, []string{"10.244.0.0/24", "fd00:10:244::/64"}) {
			t.Errorf("the node's pod ranges are %q, %q", node.Spec.PodCIDR, node.Spec.PodCIDRs)
		}
		must[*corev1.ServiceAccount](t)(client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}))
		if ca := must[*corev1.ConfigMap](t)(client.CoreV1().ConfigMaps("default").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})); ca.Data["ca.crt"] != "pem" {
			t.Errorf("root CA %v", ca.Data)
		}
		if status := must[*appsv1.Deployment](t)(client.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})).Status; status.AvailableReplicas != 1 {
			t.Errorf("status %+v", status)
		}
		slices, err := client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{})
		if err != nil || len(slices.Items) != 1 || len(slices.Items[0].Endpoints) != 1 || !*slices.Items[0].Endpoints[0].Conditions.Ready {
			t.Errorf("slices %+v, %v", slices, err)
		}
		endpoints := must[*corev1.Endpoints](t)(client.CoreV1().Endpoints("default").Get(ctx, "web", metav1.GetOptions{}))
		if len(endpoints.Subsets) != 1 || endpoints.Subsets[0].Addresses[0].IP != "10.244.0.9" {
			t.Errorf("endpoints %+v", endpoints.Subsets)
		}
		unreachable(ctx, t, client)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
}

func create(ctx context.Context, t *testing.T, client *fake.Clientset) {
	labels := map[string]string{"app": "web"}
	one := int32(1)
	must[*corev1.Namespace](t)(client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
	must[*corev1.Node](t)(client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n"},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("10")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}, metav1.CreateOptions{}))
	must[*corev1.Service](t)(client.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{Selector: labels, ClusterIP: "10.96.0.7", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}, metav1.CreateOptions{}))
	must[*appsv1.Deployment](t)(client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{Name: "c", Image: "i"}},
					Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
				},
			},
		},
	}, metav1.CreateOptions{}))
}

// unreachable lets the node fall silent: it becomes Unknown and tainted, and its pod is ready no more.
func unreachable(ctx context.Context, t *testing.T, client *fake.Clientset) {
	time.Sleep(controller.DefaultNodeGracePeriod)
	synctest.Wait()
	node := must[*corev1.Node](t)(client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{}))
	if node.Status.Conditions[0].Status != corev1.ConditionUnknown || len(node.Spec.Taints) != 2 {
		t.Errorf("silent node: %+v, taints %+v", node.Status.Conditions, node.Spec.Taints)
	}
	pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) != 1 || pods.Items[0].Status.Conditions[0].Status != corev1.ConditionFalse {
		t.Errorf("pods of the silent node: %+v, %v", pods, err)
	}
}
