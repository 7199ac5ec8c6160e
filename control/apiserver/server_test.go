package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	accorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func newConfigMap(t *testing.T, client kubernetes.Interface, name string, data map[string]string) *corev1.ConfigMap {
	t.Helper()
	m, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestObjects writes and reads objects in each encoding.
func TestObjects(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	for _, encoding := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		config := rest.CopyConfig(c.config)
		config.ContentType = encoding
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		maps := client.CoreV1().ConfigMaps("default")
		m := newConfigMap(t, client, "m", map[string]string{"a": "b"})
		stale := m.DeepCopy()
		m.Data["a"] = "c"
		if m, err = maps.Update(t.Context(), m, metav1.UpdateOptions{}); err != nil || m.Data["a"] != "c" {
			t.Errorf("%s: %v, %v", encoding, m, err)
		}
		_, err = maps.Update(t.Context(), stale, metav1.UpdateOptions{})
		wantError(t, err, metav1.StatusReasonConflict, "the object has been modified; please apply your changes to the latest version and try again")
		_, err = maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}}, metav1.CreateOptions{})
		wantError(t, err, metav1.StatusReasonAlreadyExists, `configmaps "m" already exists`)
		err = maps.Delete(t.Context(), "m", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("other")})
		wantError(t, err, metav1.StatusReasonConflict, "the UID in the precondition (other) does not match the UID in record")
		if err := maps.Delete(t.Context(), "m", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
}

func TestPages(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	for i := range 5 {
		newConfigMap(t, c.client, fmt.Sprint("m", i), nil)
	}
	var names []string
	options := metav1.ListOptions{Limit: 2}
	for pages := 1; ; pages++ {
		list, err := c.client.CoreV1().ConfigMaps("default").List(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		if options.Continue = list.Continue; options.Continue == "" {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
		// What comes while paging is not in the pages.
		newConfigMap(t, c.client, fmt.Sprint("new", pages), nil)
	}
	if got := strings.Join(names, " "); got != "m0 m1 m2 m3 m4" {
		t.Error(got)
	}
}

func TestWatch(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	first := newConfigMap(t, c.client, "first", nil)
	// A watch from a version repeats what came after it; one that asks for initial events marks their end with a bookmark.
	yes := true
	for name, options := range map[string]metav1.ListOptions{
		"from a version": {ResourceVersion: first.ResourceVersion},
		"with a list":    {SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan},
	} {
		w, err := c.client.CoreV1().ConfigMaps("default").Watch(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		if options.SendInitialEvents != nil {
			next(t, w, watch.Added)
			if b := next(t, w, watch.Bookmark); b.Annotations[metav1.InitialEventsAnnotationKey] != "true" {
				t.Errorf("%s: bookmark %v", name, b.Annotations)
			}
		}
		newConfigMap(t, c.client, "m", nil)
		if m := next(t, w, watch.Added); m.Name != "m" {
			t.Errorf("%s: %s", name, m.Name)
		}
		if err := c.client.CoreV1().ConfigMaps("default").Delete(t.Context(), "m", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		next(t, w, watch.Deleted)
		w.Stop()
	}
}

func next(t *testing.T, w watch.Interface, want watch.EventType) *corev1.ConfigMap {
	t.Helper()
	select {
	case e := <-w.ResultChan():
		m, ok := e.Object.(*corev1.ConfigMap)
		if e.Type != want || !ok {
			t.Fatalf("%s %v, want %s", e.Type, e.Object, want)
		}
		return m
	case <-time.After(30 * time.Second):
		t.Fatalf("no %s", want)
		return nil
	}
}

func TestPatch(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	ctx, maps := t.Context(), c.client.CoreV1().ConfigMaps("default")
	newConfigMap(t, c.client, "m", map[string]string{"a": "1"})
	for _, p := range []struct {
		kind types.PatchType
		body string
	}{
		{types.JSONPatchType, `[{"op":"test","path":"/data/a","value":"1"},{"op":"add","path":"/data/b","value":"2"}]`},
		{types.MergePatchType, `{"data":{"c":"3"}}`},
		{types.StrategicMergePatchType, `{"data":{"d":"4","a":null}}`},
	} {
		if _, err := maps.Patch(ctx, "m", p.kind, []byte(p.body), metav1.PatchOptions{FieldManager: "patcher"}); err != nil {
			t.Errorf("%s: %v", p.kind, err)
		}
	}
	apply := accorev1.ConfigMap("m", "default").WithData(map[string]string{"c": "5"})
	_, err := maps.Apply(ctx, apply, metav1.ApplyOptions{FieldManager: "applier"})
	wantError(t, err, metav1.StatusReasonConflict, `Apply failed with 1 conflict: conflict with "patcher" using v1: .data.c`)
	if m, err := maps.Apply(ctx, apply, metav1.ApplyOptions{FieldManager: "applier", Force: true, DryRun: []string{metav1.DryRunAll}}); err != nil || m.Data["c"] != "5" {
		t.Errorf("dry run: %v, %v", m, err)
	}
	m, err := maps.Get(ctx, "m", metav1.GetOptions{})
	if err != nil || fmt.Sprint(m.Data) != "map[b:2 c:3 d:4]" {
		t.Errorf("%v, %v", m.Data, err)
	}
	_, err = maps.Patch(ctx, "m", types.MergePatchType, []byte(`{"date":{}}`), metav1.PatchOptions{FieldValidation: metav1.FieldValidationStrict})
	wantError(t, err, metav1.StatusReasonInvalid, `unknown field "date"`)
	body := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"n"},"date":{},"data":{"a":"1","a":"2"}}`)
	err = c.client.CoreV1().RESTClient().Post().Namespace("default").Resource("configmaps").Param("fieldValidation", "Strict").Body(body).Do(ctx).Error()
	wantError(t, err, metav1.StatusReasonBadRequest, `strict decoding error: unknown field "date", duplicate field "data.a"`)
}

func TestTable(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	newConfigMap(t, c.client, "m", map[string]string{"a": "1", "b": "2"})
	table := &metav1.Table{}
	raw, err := c.client.CoreV1().RESTClient().Get().Namespace("default").Resource("configmaps").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Raw()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, table); err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 1 || table.ColumnDefinitions[1].Name != "Data" || fmt.Sprint(table.Rows[0].Cells[:2]) != "[m 2]" {
		t.Errorf("%s", raw)
	}
}

// TestRestart checks what a server that starts on the data of another one knows, and how Secrets are stored.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	c, stop := start(t, dir, 1)
	create := func(client kubernetes.Interface, name string) (*corev1.Service, error) {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}
		return client.CoreV1().Services("default").Create(t.Context(), s, metav1.CreateOptions{})
	}
	first, err := create(c.client, "first")
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"password": "cleartext"}}
	if _, err := c.client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	checkEncrypted(t, c.etcd)
	stop()

	c, _ = start(t, dir, 1)
	if got, err := c.client.CoreV1().Secrets("default").Get(t.Context(), "s", metav1.GetOptions{}); err != nil || string(got.Data["password"]) != "cleartext" {
		t.Errorf("secret after a restart: %v, %v", got, err)
	}
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "same"}, Spec: corev1.ServiceSpec{ClusterIP: first.Spec.ClusterIP, Ports: []corev1.ServicePort{{Port: 80}}}}
	_, err = c.client.CoreV1().Services("default").Create(t.Context(), s, metav1.CreateOptions{})
	wantError(t, err, metav1.StatusReasonInvalid, "provided IP is already allocated")
	second, err := create(c.client, "second")
	if err != nil {
		t.Fatal(err)
	}
	if second.Spec.ClusterIP == first.Spec.ClusterIP || second.Spec.Ports[0].NodePort == first.Spec.Ports[0].NodePort {
		t.Errorf("%s:%d is given twice", second.Spec.ClusterIP, second.Spec.Ports[0].NodePort)
	}
}

func checkEncrypted(t *testing.T, endpoints []string) {
	t.Helper()
	store, err := clientv3.New(clientv3.Config{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := store.Get(ctx, "/registry/secrets/default/s")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 || !bytes.HasPrefix(got.Kvs[0].Value, []byte("k8s:enc:secretbox:v1:")) || bytes.Contains(got.Kvs[0].Value, []byte("cleartext")) {
		t.Errorf("a stored Secret is not encrypted: %v", got.Kvs)
	}
}
