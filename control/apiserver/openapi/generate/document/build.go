package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"

	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/component-base/version"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skep-io/skep/control/api"
	"github.com/skep-io/skep/control/apiserver/openapi/generate/definitions"
)

// The media types in which a document is kept.
const (
	mediaJSON       = "application/json"
	mediaProtobufV2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	mediaProtobufV3 = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// unauthorized describes the answer that every route may give.
const unauthorized = "Unauthorized"

// document is one document in one encoding.
type document struct {
	// name is the path below /openapi with the encoding as its extension: "v3/apis/apps/v1.json".
	name string
	// etag is the hash that upstream's server gives the document.
	etag    string
	content []byte
}

// build makes all documents. Upstream's own server of documents makes them, so that they are what its clients know; it is asked
// for every one that it lists.
func build() ([]document, error) {
	container, err := newContainer()
	if err != nil {
		return nil, err
	}
	namer := openapinamer.NewDefinitionNamer(api.NewNamingScheme())
	paths := mux.NewPathRecorderMux("openapi")
	install := routes.OpenAPI{Config: configV2(namer), V3Config: configV3(namer)}
	install.InstallV2(container, paths)
	install.InstallV3(container, paths)

	var documents []document
	add := func(path, accept, extension string) error {
		d, err := fetch(paths, path, accept)
		d.name = strings.TrimPrefix(path, "/openapi/") + extension
		documents = append(documents, d)
		return err
	}
	if err := add("/openapi/v3", mediaJSON, ".json"); err != nil {
		return nil, err
	}
	var index handler3.OpenAPIV3Discovery
	if err := json.Unmarshal(documents[0].content, &index); err != nil {
		return nil, fmt.Errorf("list of documents: %w", err)
	}
	// A document that cannot be built is only logged and left out.
	if services := container.RegisteredWebServices(); len(index.Paths) != len(services) {
		return nil, fmt.Errorf("documents of %d roots, but %d are served", len(index.Paths), len(services))
	}
	if err := add("/openapi/v2", mediaJSON, ".json"); err != nil {
		return nil, err
	}
	if err := add("/openapi/v2", mediaProtobufV2, ".pb"); err != nil {
		return nil, err
	}
	for _, path := range slices.Sorted(maps.Keys(index.Paths)) {
		if err := add("/openapi/v3/"+path, mediaJSON, ".json"); err != nil {
			return nil, err
		}
		if err := add("/openapi/v3/"+path, mediaProtobufV3, ".pb"); err != nil {
			return nil, err
		}
	}
	return documents, nil
}

// fetch gets a document from the handler.
func fetch(handler http.Handler, path, accept string) (document, error) {
	request := httptest.NewRequest(http.MethodGet, path, nil)
	request.Header.Set("Accept", accept)
	response := httptest.NewRecorder()
	handler.ServeHTTP(response, request)
	if response.Code != http.StatusOK || response.Body.Len() == 0 {
		return document{}, fmt.Errorf("%s as %s: status %d, %d bytes", path, accept, response.Code, response.Body.Len())
	}
	return document{etag: strings.Trim(response.Header().Get("Etag"), `"`), content: response.Body.Bytes()}, nil
}

// bearer is how all routes authenticate, besides by client certificates, which OpenAPI v2 cannot tell.
func bearer() spec.SecuritySchemeProps {
	return spec.SecuritySchemeProps{Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication"}
}

// info names the API and its version.
func info() *spec.Info {
	return &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: "v" + version.DefaultKubeBinaryVersion}}
}

// configV2 is how the document of version 2 is made.
func configV2(namer *openapinamer.DefinitionNamer) *common.Config {
	config := server.DefaultOpenAPIConfig(definitions.GetOpenAPIDefinitions, namer)
	config.Info = info()
	config.SecurityDefinitions = &spec.SecurityDefinitions{"BearerToken": {SecuritySchemeProps: bearer()}}
	config.DefaultSecurity = []map[string][]string{{"BearerToken": {}}}
	config.CommonResponses = map[int]spec.Response{
		http.StatusUnauthorized: {ResponseProps: spec.ResponseProps{Description: unauthorized}},
	}
	return config
}

// configV3 is how the documents of version 3 are made.
func configV3(namer *openapinamer.DefinitionNamer) *common.OpenAPIV3Config {
	config := server.DefaultOpenAPIV3Config(definitions.GetOpenAPIDefinitions, namer)
	config.Info = info()
	scheme := bearer()
	config.SecuritySchemes = spec3.SecuritySchemes{"BearerToken": {SecuritySchemeProps: spec3.SecuritySchemeProps{
		Type: scheme.Type, Name: scheme.Name, In: scheme.In, Description: scheme.Description}}}
	config.DefaultSecurity = []map[string][]string{{"BearerToken": {}}}
	config.CommonResponses = map[int]*spec3.Response{
		http.StatusUnauthorized: {ResponseProps: spec3.ResponseProps{Description: unauthorized}},
	}
	return config
}
