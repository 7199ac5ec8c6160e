package steady

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// server is a source with a watch at most, which goes away when told.
type server struct {
	mu      sync.Mutex
	objects map[string]*corev1.Pod
	version int
	// oldest is the first version that a watch may begin at.
	oldest  int
	down    bool
	watches int
	current *watch.FakeWatcher
	refuse  error
}

func (s *server) ListWithContext(context.Context, metav1.ListOptions) (runtime.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errors.New("connection refused")
	}
	list := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(s.version)}}
	for _, p := range s.objects {
		list.Items = append(list.Items, *p)
	}
	return list, nil
}

func (s *server) WatchWithContext(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var from int
	_, _ = fmt.Sscan(o.ResourceVersion, &from)
	switch {
	case s.refuse != nil:
		return nil, s.refuse
	case s.down:
		return nil, errors.New("connection refused")
	case from < s.oldest:
		return nil, apierrors.NewResourceExpired("too old")
	}
	s.watches++
	s.current = watch.NewFakeWithChanSize(100, false)
	return s.current, nil
}

// set makes or changes a pod; tell: the watch says so.
func (s *server) set(name, uid string, tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	old := s.objects[name]
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(uid), ResourceVersion: fmt.Sprint(s.version)}}
	s.objects[name] = p
	switch {
	case !tell:
	case old == nil:
		s.current.Add(p)
	default:
		s.current.Modify(p)
	}
}

func (s *server) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	delete(s.objects, name)
}

// restart ends the watch; what happened before is forgotten.
func (s *server) restart(change func()) {
	s.mu.Lock()
	s.down = true
	s.current.Stop()
	s.mu.Unlock()
	change()
	time.Sleep(20 * time.Millisecond) // some attempts fail
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.oldest = false, s.version
}

func TestKeepsUpWithRestarts(t *testing.T) {
	s := &server{objects: map[string]*corev1.Pod{}}
	for _, name := range []string{"stays", "changes", "goes", "another"} {
		s.set(name, "uid-"+name, false)
	}
	lw := &listWatch{source: s, pause: [2]time.Duration{time.Millisecond, 10 * time.Millisecond}}
	informer := cache.NewSharedIndexInformer(lw, &corev1.Pod{}, 0, cache.Indexers{})
	var mu sync.Mutex
	var heard []string
	note := func(what string) func(any) {
		return func(o any) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, what+" "+o.(*corev1.Pod).Name)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: note("add"), UpdateFunc: func(_, o any) { note("update")(o) }, DeleteFunc: note("delete")})
	if err != nil {
		t.Fatal(err)
	}
	go informer.RunWithContext(t.Context())
	await(t, "the first list", informer.HasSynced)
	await(t, "a watch", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.watches == 1 })
	s.set("new", "uid-new", true)
	await(t, "an event", func() bool { return len(informer.GetStore().List()) == 5 })
	mu.Lock()
	heard = nil
	mu.Unlock()
	began := time.Now()
	for round := range 8 {
		s.restart(func() {
			if round > 0 {
				s.set("changes", "uid-changes", false)
				return
			}
			s.set("changes", "uid-changes", false)
			s.remove("goes")
			s.set("another", "uid-2", false)
			s.set("comes", "uid-comes", false)
		})
		want := fmt.Sprint(s.version)
		if round == 0 {
			want = fmt.Sprint(s.version - 3)
		}
		await(t, "what happened while the server was away", func() bool {
			o, exists, _ := informer.GetStore().GetByKey("n/changes")
			return exists && o.(*corev1.Pod).ResourceVersion == want
		})
		await(t, "a new watch", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.watches == round+2 })
	}
	// A reflector alone would wait for a second, and longer each time.
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("eight restarts took %v to follow", took)
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(heard)
	if want := []string{"add comes", "delete goes"}; !slices.Contains(heard, want[0]) || !slices.Contains(heard, want[1]) || slices.Contains(heard, "update stays") {
		t.Errorf("heard %v", heard)
	}
	if o, _, _ := informer.GetStore().GetByKey("n/another"); o.(*corev1.Pod).UID != "uid-2" {
		t.Error("the old pod of a name stays in the place of the new one")
	}
}

func TestRefusalIsReported(t *testing.T) {
	s := &server{objects: map[string]*corev1.Pod{}, refuse: apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no"))}
	lw := &listWatch{source: s, pause: pauses}
	if _, err := lw.WatchWithContext(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a watch that is forbidden: %v", err)
	}
}

func TestStops(t *testing.T) {
	s := &server{objects: map[string]*corev1.Pod{}}
	lw := &listWatch{source: s, pause: pauses, known: map[string]runtime.Object{}}
	w, err := lw.WatchWithContext(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Stop()
	select {
	case _, ok := <-w.ResultChan():
		if ok {
			t.Error("an event out of nothing")
		}
	case <-time.After(5 * time.Second):
		t.Error("it does not stop")
	}
}

func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
	}
}
