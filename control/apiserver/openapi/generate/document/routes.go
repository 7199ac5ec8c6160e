package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/emicklei/go-restful/v3"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/server/routes"

	"github.com/skep-io/skep/control/api"
)

// storages are the served resources and subresources by group-version and path.
type storages map[schema.GroupVersion]map[string]rest.Storage

// newStorages returns what the API server serves: the rows of the table, their subresources, and the reviews.
func newStorages() storages {
	s := storages{}
	for _, row := range api.Resources() {
		body := kind{row.GroupVersion.WithKind(row.Kind), row.New()}
		if row.GroupResource() == corev1.Resource("namespaces") {
			// Upstream deletes no namespaces by selector.
			s.add(row.GroupVersion, row.Name, singly{resource: resource{row: row}})
		} else {
			s.add(row.GroupVersion, row.Name, resource{row: row})
		}
		if row.HasStatus {
			s.add(row.GroupVersion, row.Name+"/status", part{body: body})
		}
		if row.HasScale {
			s.add(row.GroupVersion, row.Name+"/scale", part{body: kind{autoscalingv1.SchemeGroupVersion.WithKind("Scale"), &autoscalingv1.Scale{}}})
		}
	}
	for path, storage := range coreSubresources() {
		s.add(corev1.SchemeGroupVersion, path, storage)
	}
	for path, storage := range authenticationReviews() {
		s.add(authenticationv1.SchemeGroupVersion, path, storage)
	}
	for path, storage := range authorizationReviews() {
		s.add(authorizationv1.SchemeGroupVersion, path, storage)
	}
	return s
}

// coreSubresources are the subresources of single kinds of the core group.
func coreSubresources() map[string]rest.Storage {
	pod := kind{corev1.SchemeGroupVersion.WithKind("Pod"), &corev1.Pod{}}
	binding := kind{corev1.SchemeGroupVersion.WithKind("Binding"), &corev1.Binding{}}
	return map[string]rest.Storage{
		"bindings":              review{subject: binding.object, singular: "binding", namespaced: true},
		"namespaces/finalize":   replaced{body: kind{corev1.SchemeGroupVersion.WithKind("Namespace"), &corev1.Namespace{}}},
		"pods/attach":           connection{options: &corev1.PodAttachOptions{}},
		"pods/binding":          action{body: binding},
		"pods/eviction":         action{body: kind{policyv1.SchemeGroupVersion.WithKind("Eviction"), &policyv1.Eviction{}}},
		"pods/exec":             connection{options: &corev1.PodExecOptions{}},
		"pods/log":              text{body: pod, options: &corev1.PodLogOptions{}},
		"pods/portforward":      connection{options: &corev1.PodPortForwardOptions{}},
		"serviceaccounts/token": action{body: kind{authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), &authenticationv1.TokenRequest{}}},
	}
}

func authenticationReviews() map[string]rest.Storage {
	return map[string]rest.Storage{
		"tokenreviews":       review{subject: &authenticationv1.TokenReview{}, singular: "tokenreview"},
		"selfsubjectreviews": review{subject: &authenticationv1.SelfSubjectReview{}, singular: "selfsubjectreview"},
	}
}

func authorizationReviews() map[string]rest.Storage {
	return map[string]rest.Storage{
		"subjectaccessreviews":      review{subject: &authorizationv1.SubjectAccessReview{}, singular: "subjectaccessreview"},
		"localsubjectaccessreviews": review{subject: &authorizationv1.LocalSubjectAccessReview{}, singular: "localsubjectaccessreview", namespaced: true},
		"selfsubjectaccessreviews":  review{subject: &authorizationv1.SelfSubjectAccessReview{}, singular: "selfsubjectaccessreview"},
		"selfsubjectrulesreviews":   review{subject: &authorizationv1.SelfSubjectRulesReview{}, singular: "selfsubjectrulesreview"},
	}
}

// add puts a storage under a path of a group-version.
func (s storages) add(gv schema.GroupVersion, path string, storage rest.Storage) {
	if s[gv] == nil {
		s[gv] = map[string]rest.Storage{}
	}
	s[gv][path] = storage
}

// newContainer makes the routes of all storages and of discovery.
func newContainer() (*restful.Container, error) {
	scheme := api.NewScheme()
	codecs := serializer.NewCodecFactory(scheme)
	container := restful.NewContainer()
	routes.Version{Version: &version.Info{}}.Install(container)
	served := newStorages()
	versions := slices.SortedFunc(maps.Keys(served), func(a, b schema.GroupVersion) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Version, b.Version))
	})
	for _, gv := range versions {
		if err := install(container, scheme, codecs, gv, served[gv]); err != nil {
			return nil, fmt.Errorf("%s: %w", gv, err)
		}
	}
	for _, group := range slices.Compact(groups(versions)) {
		if group == "" {
			container.Add(discovery.NewLegacyRootAPIHandler(nil, codecs, "/api").WebService())
			continue
		}
		container.Add(discovery.NewAPIGroupHandler(codecs, metav1.APIGroup{Name: group}).WebService())
	}
	container.Add(discovery.NewRootAPIsHandler(nil, codecs).WebService())
	return container, nil
}

// groups are the groups of sorted versions.
func groups(versions []schema.GroupVersion) []string {
	var names []string
	for _, gv := range versions {
		names = append(names, gv.Group)
	}
	return names
}

// install makes the routes of one group-version.
func install(container *restful.Container, scheme *runtime.Scheme, codecs serializer.CodecFactory, gv schema.GroupVersion, storage map[string]rest.Storage) error {
	root := "/apis"
	if gv.Group == "" {
		root = "/api"
	}
	v1 := schema.GroupVersion{Version: "v1"}
	group := endpoints.APIGroupVersion{
		Storage:                    storage,
		Root:                       root,
		GroupVersion:               gv,
		OptionsExternalVersion:     &v1,
		Serializer:                 codecs,
		ParameterCodec:             runtime.NewParameterCodec(scheme),
		Typer:                      scheme,
		Creater:                    scheme,
		Convertor:                  scheme,
		ConvertabilityChecker:      scheme,
		Defaulter:                  scheme,
		Namer:                      meta.NewAccessor(),
		UnsafeConvertor:            runtime.UnsafeObjectConvertor(scheme),
		TypeConverter:              managedfields.NewDeducedTypeConverter(),
		EquivalentResourceRegistry: runtime.NewEquivalentResourceRegistry(),
	}
	_, _, err := group.InstallREST(container)
	return err
}
