package garbage

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/metadata"
	metadatafake "k8s.io/client-go/metadata/fake"
)

var (
	verbs = metav1.Verbs{"get", "list", "watch", "delete", "deletecollection", "patch"}
	lists = []*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: verbs}}},
		{GroupVersion: "apps/v1", APIResources: []metav1.APIResource{{Name: "replicasets", Kind: "ReplicaSet", Namespaced: true, Verbs: verbs}}},
	}
	pods = corev1.SchemeGroupVersion.WithResource("pods")
	sets = appsv1.SchemeGroupVersion.WithResource("replicasets")
)

func metadataOf(apiVersion, kind, name string, change func(*metav1.PartialObjectMetadata)) *metav1.PartialObjectMetadata {
	meta := &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiVersion, Kind: kind},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), ResourceVersion: "1"},
	}
	change(meta)
	return meta
}

func pod(name, owner string) *metav1.PartialObjectMetadata {
	return metadataOf("v1", "Pod", name, func(m *metav1.PartialObjectMetadata) {
		block := true
		m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: owner, UID: types.UID(owner), BlockOwnerDeletion: &block}}
	})
}

func collect(t *testing.T, objects ...runtime.Object) metadata.Interface {
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	client := metadatafake.NewSimpleMetadataClient(scheme, objects...)
	core := fake.NewClientset()
	core.Resources = lists
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); New(core.Discovery(), client, slog.New(slog.DiscardHandler)).Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	time.Sleep(time.Second) // of the bubble
	synctest.Wait()
	return client
}

func TestCollectsWhatNobodyOwns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := collect(t, pod("lost", "gone"), pod("kept", "set"), metadataOf("apps/v1", "ReplicaSet", "set", func(*metav1.PartialObjectMetadata) {}))
		exists := func(name string, want bool) {
			t.Helper()
			_, err := client.Resource(pods).Namespace("default").Get(t.Context(), name, metav1.GetOptions{})
			if want != (err == nil) || !want && !apierrors.IsNotFound(err) {
				t.Errorf("pod %s: %v", name, err)
			}
		}
		exists("lost", false)
		exists("kept", true)
		if err := client.Resource(sets).Namespace("default").Delete(t.Context(), "set", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		exists("kept", false)
	})
}

func TestOrphansAndForeground(t *testing.T) {
	deleting := func(finalizer string) func(*metav1.PartialObjectMetadata) {
		return func(m *metav1.PartialObjectMetadata) {
			now := metav1.Now()
			m.DeletionTimestamp, m.Finalizers = &now, []string{finalizer, "other"}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		client := collect(t,
			metadataOf("apps/v1", "ReplicaSet", "orphaning", deleting(metav1.FinalizerOrphanDependents)), pod("free", "orphaning"),
			metadataOf("apps/v1", "ReplicaSet", "waiting", deleting(metav1.FinalizerDeleteDependents)), pod("first", "waiting"))
		free, err := client.Resource(pods).Namespace("default").Get(t.Context(), "free", metav1.GetOptions{})
		if err != nil || len(free.OwnerReferences) != 0 {
			t.Errorf("orphaned pod: %v, %+v", err, free)
		}
		if _, err := client.Resource(pods).Namespace("default").Get(t.Context(), "first", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("dependent of a foreground deletion: %v", err)
		}
		for _, name := range []string{"orphaning", "waiting"} {
			set, err := client.Resource(sets).Namespace("default").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil || len(set.Finalizers) != 1 || set.Finalizers[0] != "other" {
				t.Errorf("%s: %v, finalizers %v", name, err, set)
			}
		}
	})
}
