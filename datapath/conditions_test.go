package datapath

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/skep-io/skep/datapath/reconcile"
)

func conditionsOf(factory informers.SharedInformerFactory, client *fake.Clientset, node string) *conditions {
	return newConditions(Config{NodeName: node, Client: client, Informers: factory, Logger: slog.New(slog.DiscardHandler)})
}

// TestConditionOfNodes: each node writes its own line, and the condition holds again when the last one is gone.
func TestConditionOfNodes(t *testing.T) {
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	for _, name := range []string{"one", "two"} {
		if err := factory.Core().V1().Nodes().Informer().GetStore().Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	nodes := map[string]*conditions{"one": conditionsOf(factory, client, "one"), "two": conditionsOf(factory, client, "two")}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	web := reconcile.Owner{Namespace: "default", Name: "web"}
	for _, step := range []struct {
		name, node, lacks string
		want              string // the message; empty: nothing is written
		status            metav1.ConditionStatus
	}{
		{"nothing was ever wrong", "one", "", "", ""},
		{"two lacks", "two", "map slot: no room", "Node two: map slot: no room", "False"},
		{"the same", "two", "map slot: no room", "", ""},
		{"one lacks too", "one", "map frontend:\nno room", "Node one: map frontend:; no room\nNode two: map slot: no room", "False"},
		{"two has it", "two", "", "Node one: map frontend:; no room", "False"},
		{"two has it still", "two", "", "", ""},
		{"one has it", "one", "", "All nodes have the Service.", "True"},
		{"both have it", "two", "", "", ""},
		{"it comes back", "one", "full", "Node one: full", "False"},
	} {
		n := nodes[step.node]
		n.update(web, step.lacks)
		c := n.wanted(svc)
		if c == nil {
			if step.want != "" {
				t.Errorf("%s: nothing, want %q", step.name, step.want)
			}
			continue
		}
		if c.Message != step.want || c.Status != step.status {
			t.Errorf("%s: %s %q, want %s %q", step.name, c.Status, c.Message, step.status, step.want)
		}
		meta.SetStatusCondition(&svc.Status.Conditions, *c)
	}
	// Lines of a node that is gone stand for nothing.
	svc.Status.Conditions[0].Message = "Node gone: full\nNode one: full"
	if c := nodes["one"].wanted(svc); c == nil || c.Message != "Node one: full" {
		t.Errorf("a node that is gone: %+v", c)
	}
	nodes["one"].update(reconcile.Owner{Namespace: "default", Name: "pod/x"}, "full")
	if len(nodes["one"].lacks) != 1 {
		t.Error("a host port has a condition")
	}
}

// TestConditionIsWritten waits for the status, when the first attempt finds that another node was first.
func TestConditionIsWritten(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u", ResourceVersion: "7"}}
	client := fake.NewClientset(svc)
	factory := informers.NewSharedInformerFactory(client, 0)
	if err := factory.Core().V1().Services().Informer().GetStore().Add(svc); err != nil {
		t.Fatal(err)
	}
	attempts := 0
	patched := make(chan clienttesting.PatchAction, 10)
	client.PrependReactor("patch", "services", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if attempts++; attempts == 1 {
			return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "services"}, "web", nil)
		}
		patched <- a.(clienttesting.PatchAction)
		return true, svc, nil
	})
	c := conditionsOf(factory, client, "one")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go c.run(ctx)
	c.update(reconcile.Owner{Namespace: "default", Name: "web"}, "map slot: no room")
	select {
	case a := <-patched:
		if patch := string(a.GetPatch()); a.GetSubresource() != "status" || !strings.Contains(patch, `"resourceVersion":"7"`) ||
			!strings.Contains(patch, `"message":"Node one: map slot: no room"`) {
			t.Errorf("%s: %s", a.GetSubresource(), patch)
		}
	case <-time.After(10 * time.Second):
		t.Error("no status was written")
	}
	(*conditions)(nil).update(reconcile.Owner{}, "") // without a client nothing is written
}
