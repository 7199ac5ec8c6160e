package openapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skep-io/skep/control/api"
)

const (
	protobufV2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	protobufV3 = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// get asks a fresh server; header is pairs of names and values.
func get(t *testing.T, path string, header ...string) *http.Response {
	t.Helper()
	paths := mux.NewPathRecorderMux("test")
	Install(paths)
	request := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response := httptest.NewRecorder()
	paths.ServeHTTP(response, request)
	return response.Result()
}

// body returns what a request that has to succeed answers.
func body(t *testing.T, path, accept string) []byte {
	t.Helper()
	response := get(t, path, "Accept", accept)
	content, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("GET %s as %s: status %d, error %v", path, accept, response.StatusCode, err)
	}
	return content
}

// list returns the URLs of the documents of version 3.
func list(t *testing.T) map[string]string {
	t.Helper()
	var index handler3.OpenAPIV3Discovery
	if err := json.Unmarshal(body(t, "/openapi/v3", "application/json"), &index); err != nil {
		t.Fatal(err)
	}
	urls := map[string]string{}
	for path, document := range index.Paths {
		urls[path] = document.ServerRelativeURL
	}
	return urls
}

// root is the path of a row's group-version.
func root(row *api.Resource) string {
	if row.GroupVersion.Group == "" {
		return "api/" + row.GroupVersion.Version
	}
	return "apis/" + row.GroupVersion.String()
}

// TestV2HasEveryKind looks up each row of the table as clients do: by the group, version and kind of a definition, and by path.
func TestV2HasEveryKind(t *testing.T) {
	var document spec.Swagger
	if err := json.Unmarshal(body(t, "/openapi/v2", "application/json"), &document); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for name, definition := range document.Definitions {
		if !strings.HasPrefix(name, "io.k8s.api") {
			t.Errorf("definition %s has no name of the public API", name)
		}
		gvks, _ := definition.Extensions["x-kubernetes-group-version-kind"].([]any)
		for _, gvk := range gvks {
			m := gvk.(map[string]any)
			if m["version"] == "__internal" {
				t.Errorf("definition %s tells an internal version", name)
			}
			kinds[m["group"].(string)+"/"+m["version"].(string)+" "+m["kind"].(string)] = true
		}
	}
	for _, row := range api.Resources() {
		if !kinds[row.GroupVersion.Group+"/"+row.GroupVersion.Version+" "+row.Kind] {
			t.Errorf("no definition of %s %s", row.GroupVersion, row.Kind)
		}
		path := "/" + root(row) + "/" + row.Name
		if row.Namespaced {
			path = "/" + root(row) + "/namespaces/{namespace}/" + row.Name
		}
		item, ok := document.Paths.Paths[path+"/{name}"]
		if !ok || item.Get == nil || item.Patch == nil || document.Paths.Paths[path].Post == nil {
			t.Errorf("no operations at %s", path)
			continue
		}
		if action := item.Get.Extensions["x-kubernetes-action"]; action != "get" {
			t.Errorf("%s: action %v", path, action)
		}
		if _, ok := document.Paths.Paths[path+"/{name}/status"]; ok != row.HasStatus {
			t.Errorf("%s/status: documented %v, served %v", path, ok, row.HasStatus)
		}
	}
	containers := document.Definitions["io.k8s.api.core.v1.PodSpec"].Properties["containers"]
	if key := containers.Extensions["x-kubernetes-patch-merge-key"]; key != "name" {
		t.Errorf("containers merge by %v, want name", key)
	}
}

// TestV3HasEveryKind reads the document of each row's group-version in both encodings.
func TestV3HasEveryKind(t *testing.T) {
	urls := list(t)
	for _, row := range api.Resources() {
		url, ok := urls[root(row)]
		if !ok {
			t.Errorf("%s is not listed", root(row))
			continue
		}
		var document spec3.OpenAPI
		if err := json.Unmarshal(body(t, url, "application/json"), &document); err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		described := slices.ContainsFunc(slices.Collect(maps.Keys(document.Components.Schemas)), func(name string) bool {
			return strings.HasSuffix(name, "."+row.GroupVersion.Version+"."+row.Kind)
		})
		if !described {
			t.Errorf("%s: no schema of %s", url, row.Kind)
		}
		if bytes.Contains(body(t, url, "application/json"), []byte("__internal")) {
			t.Errorf("%s tells an internal version", url)
		}
	}
	for path, url := range urls {
		var document openapi_v3.Document
		if err := proto.Unmarshal(body(t, url, protobufV3), &document); err != nil || document.Openapi == "" {
			t.Errorf("%s as protobuf: version %q, error %v", path, document.Openapi, err)
		}
	}
}

// TestV2Protobuf decodes the document as old clients do, who ask for it by a name that is no valid media type.
func TestV2Protobuf(t *testing.T) {
	for _, accept := range []string{protobufV2, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"} {
		response := get(t, "/openapi/v2", "Accept", accept)
		if got := response.Header.Get("Content-Type"); got != protobufV2 {
			t.Errorf("%s: content type %s", accept, got)
		}
		var document openapi_v2.Document
		if err := proto.Unmarshal(body(t, "/openapi/v2", accept), &document); err != nil {
			t.Fatalf("%s: %v", accept, err)
		}
		if len(document.Definitions.AdditionalProperties) < 100 {
			t.Errorf("%s: %d definitions", accept, len(document.Definitions.AdditionalProperties))
		}
	}
}

func TestAnswers(t *testing.T) {
	const pods = "/openapi/v3/api/v1"
	etag := get(t, pods).Header.Get("Etag")
	for _, c := range []struct {
		name, path string
		header     []string
		status     int
		answer     map[string]string
	}{
		{"any", "/openapi/v2", nil, 200, map[string]string{"Content-Type": "application/json", "Content-Encoding": ""}},
		{"protobuf preferred", "/openapi/v2", []string{"Accept", "application/json;q=0.5," + protobufV2}, 200, map[string]string{"Content-Type": protobufV2}},
		{"refused", "/openapi/v2", []string{"Accept", "text/html"}, 406, nil},
		{"refused v3", pods, []string{"Accept", "text/html"}, 406, nil},
		{"compressed", pods, []string{"Accept-Encoding", "br, gzip"}, 200, map[string]string{"Content-Encoding": "gzip", "Etag": etag}},
		{"compression refused", pods, []string{"Accept-Encoding", "gzip;q=0"}, 200, map[string]string{"Content-Encoding": "", "Etag": etag}},
		{"unchanged", pods, []string{"If-None-Match", etag}, 304, map[string]string{"Etag": etag}},
		{"unchanged compressed", pods, []string{"If-None-Match", etag, "Accept-Encoding", "gzip"}, 304, nil},
		{"range", pods, []string{"Range", "bytes=0-9"}, 200, nil},
		{"right hash", pods + "?hash=" + strings.Trim(etag, `"`), nil, 200, map[string]string{"Cache-Control": "public, immutable"}},
		{"old hash", pods + "?hash=0", nil, 301, map[string]string{"Location": pods + "?hash=" + strings.Trim(etag, `"`)}},
		{"unknown group", "/openapi/v3/apis/none/v1", nil, 404, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			response := get(t, c.path, c.header...)
			if response.StatusCode != c.status {
				t.Fatalf("status %d, want %d", response.StatusCode, c.status)
			}
			for name, want := range c.answer {
				if got := response.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

// TestCompressedIsTheSame compares what clients with and without gzip get.
func TestCompressedIsTheSame(t *testing.T) {
	r, err := gzip.NewReader(get(t, "/openapi/v2", "Accept-Encoding", "gzip").Body)
	if err != nil {
		t.Fatal(err)
	}
	uncompressed, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if plain := body(t, "/openapi/v2", "application/json"); !bytes.Equal(plain, uncompressed) {
		t.Errorf("%d bytes compressed, %d plain, and they differ", len(uncompressed), len(plain))
	}
}

// TestRegenerate makes the archive again: it has to be that of the tree, byte for byte.
func TestRegenerate(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	made := filepath.Join(t.TempDir(), "openapi.zip")
	if out, err := exec.Command("go", "run", "./generate", made).CombinedOutput(); err != nil {
		t.Fatalf("generate: %v\n%s", err, out)
	}
	content, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if string(content) != archive {
		t.Error("openapi.zip is not what the generator makes: run go generate ./control/apiserver/openapi")
	}
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		if _, err := readArchive(archive); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPlainV2(b *testing.B) {
	all, err := readArchive(archive)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := all["v2.json"].plain(); err != nil {
			b.Fatal(err)
		}
	}
}
