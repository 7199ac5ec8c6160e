package namespace

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
)

func meta(kind, name string, finalizers ...string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: kind},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "going", Finalizers: finalizers},
	}
}

// empty runs the loop on a namespace that is being deleted and returns the namespace and the metadata client after it settled.
func empty(t *testing.T, objects ...runtime.Object) (*corev1.Namespace, *metadatafake.FakeMetadataClient) {
	now := metav1.Now()
	client := fake.NewClientset(&corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "going", DeletionTimestamp: &now},
		Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
	})
	verbs := metav1.Verbs{"list", "delete"} // one by one: the fake has no finalizers in a collection's deletion
	client.Resources = []*metav1.APIResourceList{{GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: verbs},
		{Name: "nodes", Kind: "Node", Verbs: verbs},
		{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: verbs},
	}}}
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	contents := metadatafake.NewSimpleMetadataClient(scheme, objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	c, err := New(client, contents, factory, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	factory.Start(ctx.Done())
	go func() { defer close(done); c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; factory.Shutdown() })
	time.Sleep(3 * again) // of the bubble
	synctest.Wait()
	namespace, err := client.CoreV1().Namespaces().Get(ctx, "going", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return namespace, contents
}

func TestEmptiesAndFinalizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		namespace, contents := empty(t, meta("Pod", "p"), meta("ConfigMap", "c"))
		if len(namespace.Spec.Finalizers) != 0 {
			t.Errorf("finalizers left: %v; conditions %+v", namespace.Spec.Finalizers, namespace.Status.Conditions)
		}
		for _, resource := range []string{"pods", "configmaps"} {
			list, err := contents.Resource(corev1.SchemeGroupVersion.WithResource(resource)).Namespace("going").List(t.Context(), metav1.ListOptions{})
			if err != nil || len(list.Items) != 0 {
				t.Errorf("%s left: %v, %v", resource, list, err)
			}
		}
	})
}

func TestConditions(t *testing.T) {
	now := metav1.Now()
	found := &findings{objects: map[string]int{"pods.": 2}, finalizers: map[string]int{"a/b": 1}}
	conditions := found.conditions(nil, now)
	want := map[corev1.NamespaceConditionType]string{
		corev1.NamespaceDeletionDiscoveryFailure: "False All resources successfully discovered",
		corev1.NamespaceDeletionGVParsingFailure: "False All legacy kube types successfully parsed",
		corev1.NamespaceDeletionContentFailure:   "False All content successfully deleted, may be waiting on finalization",
		corev1.NamespaceContentRemaining:         "True Some resources are remaining: pods. has 2 resource instances",
		corev1.NamespaceFinalizersRemaining:      "True Some content in the namespace has finalizers remaining: a/b in 1 resource instances",
	}
	for _, c := range conditions {
		if got := string(c.Status) + " " + c.Message; got != want[c.Type] {
			t.Errorf("%s: got %q, want %q", c.Type, got, want[c.Type])
		}
	}
	later := metav1.NewTime(now.Add(time.Hour))
	if again := found.conditions(conditions, later); !again[0].LastTransitionTime.Equal(&now) {
		t.Error("the same condition got a new time")
	}
}
