package datapath

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/datapath/reconcile"
)

// TestServiceWarnings tells of each fault once, and again when it comes back.
func TestServiceWarnings(t *testing.T) {
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	store := factory.Core().V1().Services().Informer().GetStore()
	put := func(annotation string) {
		t.Helper()
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		if annotation != "" {
			name, value, ok := strings.Cut(annotation, "=")
			if !ok {
				name, value = "balance", annotation
			}
			svc.Annotations = map[string]string{"skep.dev/" + name: value}
		}
		if err := store.Add(svc); err != nil {
			t.Fatal(err)
		}
	}
	recorder := record.NewFakeRecorder(10)
	w := newServiceWarnings(Config{NodeName: "here", Informers: factory, Events: recorder, Logger: slog.New(slog.DiscardHandler)})
	web := reconcile.Owner{Namespace: "default", Name: "web"}
	full := map[reconcile.Owner]error{web: errors.New("slot: no room")}
	for _, step := range []struct {
		name, annotation string
		lacking          map[reconcile.Owner]error
		want             string // in the event; empty: none
	}{
		{"known value", "least", nil, ""},
		{"unknown value", "fastest", nil, `InvalidAnnotation Annotation skep.dev/balance="fastest" is not known and counts as maglev: want random, maglev or least`},
		{"the same again", "fastest", nil, ""},
		{"removed", "", nil, ""},
		{"known way", "forwarding=dsr", nil, ""},
		{"unknown way", "forwarding=tunnel", nil, `InvalidAnnotation Annotation skep.dev/forwarding="tunnel" is not known and counts as snat: want snat or dsr`},
		{"removed again", "", nil, ""},
		{"unknown again", "fastest", nil, "InvalidAnnotation"},
		{"a map is full", "", full, "NotProgrammed Node here lacks some of the Service: slot: no room"},
		{"still full", "", full, ""},
		{"room", "", nil, ""},
		{"full again", "", full, "NotProgrammed"},
	} {
		put(step.annotation)
		w.update(map[reconcile.Owner]struct{}{web: {}}, step.lacking)
		var got string
		select {
		case got = <-recorder.Events:
		default:
		}
		if (got == "") != (step.want == "") || !strings.Contains(got, step.want) {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}
