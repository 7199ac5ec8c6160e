package openapi

import (
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	explain "k8s.io/kubectl/pkg/explain/v2"
	clientopenapi "k8s.io/kubectl/pkg/util/openapi"
	"k8s.io/kubectl/pkg/validation"

	"github.com/skep-io/skep/control/api"
)

// client returns a discovery client of a server that has nothing but the documents.
func client(t *testing.T) *discovery.DiscoveryClient {
	t.Helper()
	paths := mux.NewPathRecorderMux("test")
	Install(paths)
	server := httptest.NewServer(paths)
	t.Cleanup(server.Close)
	c, err := discovery.NewDiscoveryClientForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestExplain prints every kind as kubectl explain does.
func TestExplain(t *testing.T) {
	c := client(t).OpenAPIV3()
	for _, row := range api.Resources() {
		var out strings.Builder
		gvr := row.GroupVersion.WithResource(row.Name)
		if err := explain.PrintModelDescription(nil, &out, c, gvr, false, 0, "plaintext"); err != nil {
			t.Errorf("explain %s: %v", row.GroupResource(), err)
		} else if !strings.Contains(out.String(), "KIND:       "+row.Kind+"\n") || !strings.Contains(out.String(), "metadata\t<ObjectMeta>") {
			t.Errorf("explain %s:\n%s", row.GroupResource(), out.String())
		}
	}
	var out strings.Builder
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	if err := explain.PrintModelDescription([]string{"spec", "containers", "image"}, &out, c, pods, false, 0, "plaintext"); err != nil || !strings.Contains(out.String(), "FIELD: image <string>") {
		t.Errorf("explain pod.spec.containers.image: error %v\n%s", err, out.String())
	}
}

// resources gives kubectl's checks the document of version 2.
type resources struct{ clientopenapi.Resources }

func (r resources) OpenAPISchema() (clientopenapi.Resources, error) { return r.Resources, nil }

// TestApply does with the document of version 2 what kubectl apply does, in old versions and new: it checks a manifest on the
// client's side and finds out how lists are merged and whether the server checks fields.
func TestApply(t *testing.T) {
	document, err := client(t).OpenAPISchema()
	if err != nil {
		t.Fatal(err)
	}
	data, err := clientopenapi.NewOpenAPIData(document)
	if err != nil {
		t.Fatal(err)
	}
	schema := validation.NewSchemaValidation(resources{data})
	const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i","FIELD":[]}]}}`
	if err := schema.ValidateBytes([]byte(strings.Replace(pod, "FIELD", "ports", 1))); err != nil {
		t.Errorf("a good pod: %v", err)
	}
	if err := schema.ValidateBytes([]byte(strings.Replace(pod, "FIELD", "prots", 1))); err == nil || !strings.Contains(err.Error(), `unknown field "prots"`) {
		t.Errorf("a pod with an unknown field: error %v", err)
	}
	for _, row := range api.Resources() {
		gvk := row.GroupVersion.WithKind(row.Kind)
		if data.LookupResource(gvk) == nil {
			t.Errorf("no model of %s", gvk)
		}
		if !strings.Contains(strings.Join(data.GetConsumes(gvk, "PATCH"), " "), "application/strategic-merge-patch+json") {
			t.Errorf("%s does not take strategic merge patches", gvk)
		}
	}
	model := strategicpatch.PatchMetaFromOpenAPI{Schema: data.LookupResource(corev1.SchemeGroupVersion.WithKind("Pod"))}
	spec, _, err := model.LookupPatchMetadataForStruct("spec")
	if err != nil {
		t.Fatal(err)
	}
	if _, patch, err := spec.LookupPatchMetadataForSlice("containers"); err != nil || patch.GetPatchMergeKey() != "name" {
		t.Errorf("containers merge by %q, error %v", patch.GetPatchMergeKey(), err)
	}
}

// TestFieldValidation asks as kubectl does before it leaves the checks of fields to the server.
func TestFieldValidation(t *testing.T) {
	c := client(t)
	v2 := resource.NewQueryParamVerifier(nil, c, resource.QueryParamFieldValidation)
	v3 := resource.NewQueryParamVerifierV3(nil, c.OpenAPIV3(), resource.QueryParamFieldValidation)
	for _, row := range api.Resources() {
		gvk := row.GroupVersion.WithKind(row.Kind)
		if err := v2.HasSupport(gvk); err != nil {
			t.Errorf("version 2: %v", err)
		}
		if err := v3.HasSupport(gvk); err != nil {
			t.Errorf("version 3: %v", err)
		}
	}
}
