package apiserver

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	aggregated "k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// groups are the storages of each version of each group, by resource and subresource.
type groups map[schema.GroupVersion]map[string]rest.Storage

func (g groups) add(gv schema.GroupVersion, name string, storage rest.Storage) {
	if g[gv] == nil {
		g[gv] = map[string]rest.Storage{}
	}
	g[gv][name] = storage
}

// installer puts groups into a generic server. The server's own InstallAPIGroup is not used: it would build the OpenAPI models
// of every kind at start, while ours come with client-go and are parsed when the first write needs them.
type installer struct {
	server    *genericapiserver.GenericAPIServer
	scheme    *runtime.Scheme
	codecs    serializer.CodecFactory
	admission admission.Interface
	addresses discovery.Addresses
	maxBody   int64
	minWatch  time.Duration
}

func (i installer) install(all groups) error {
	types := newTypes(i.scheme)
	versions := slices.SortedFunc(maps.Keys(all), func(a, b schema.GroupVersion) int {
		return slices.Compare([]string{a.Group, a.Version}, []string{b.Group, b.Version})
	})
	byGroup := map[string][]metav1.GroupVersionForDiscovery{}
	var order []string
	for _, gv := range versions {
		if err := i.installVersion(gv, all[gv], types); err != nil {
			return fmt.Errorf("install %s: %w", gv, err)
		}
		if len(byGroup[gv.Group]) == 0 {
			order = append(order, gv.Group)
		}
		byGroup[gv.Group] = append(byGroup[gv.Group], metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
	}
	for _, name := range order {
		if name == "" {
			i.installLegacyRoot()
			continue
		}
		// The table has one version a group, so the first is the preferred one.
		group := metav1.APIGroup{Name: name, Versions: byGroup[name], PreferredVersion: byGroup[name][0]}
		i.server.DiscoveryGroupManager.AddGroup(group)
		i.server.Handler.GoRestfulContainer.Add(discovery.NewAPIGroupHandler(i.codecs, group).WebService())
	}
	return nil
}

// installLegacyRoot serves /api, plain or aggregated as the client asks.
func (i installer) installLegacyRoot() {
	root := discovery.NewLegacyRootAPIHandler(i.addresses, i.codecs, genericapiserver.DefaultLegacyAPIPrefix)
	manager := i.server.AggregatedLegacyDiscoveryGroupManager
	wrapped := aggregated.WrapAggregatedDiscoveryToHandler(root, manager, manager)
	i.server.Handler.GoRestfulContainer.Add(wrapped.GenerateWebService(genericapiserver.DefaultLegacyAPIPrefix, metav1.APIVersions{}))
}

func (i installer) installVersion(gv schema.GroupVersion, storage map[string]rest.Storage, types managedfields.TypeConverter) error {
	prefix, manager := genericapiserver.APIGroupPrefix, i.server.AggregatedDiscoveryGroupManager
	if gv.Group == "" {
		prefix, manager = genericapiserver.DefaultLegacyAPIPrefix, i.server.AggregatedLegacyDiscoveryGroupManager
	}
	served := map[string][]string{}
	for name := range storage {
		served[name] = []string{gv.String()}
	}
	version := &endpoints.APIGroupVersion{
		Storage:                     storage,
		Root:                        prefix,
		GroupVersion:                gv,
		AllServedVersionsByResource: served,
		ParameterCodec:              runtime.NewParameterCodec(i.scheme),
		Serializer:                  i.codecs,
		Creater:                     i.scheme,
		Convertor:                   i.scheme,
		ConvertabilityChecker:       i.scheme,
		UnsafeConvertor:             runtime.UnsafeObjectConvertor(i.scheme),
		Defaulter:                   i.scheme,
		Typer:                       i.scheme,
		Namer:                       meta.NewAccessor(),
		EquivalentResourceRegistry:  i.server.EquivalentResourceRegistry,
		Admit:                       i.admission,
		MinRequestTimeout:           i.minWatch,
		Authorizer:                  i.server.Authorizer,
		TypeConverter:               types,
		MaxRequestBodyBytes:         i.maxBody,
	}
	resources, _, err := version.InstallREST(i.server.Handler.GoRestfulContainer)
	if err != nil {
		return err
	}
	manager.AddGroupVersion(gv.Group, apidiscoveryv2.APIVersionDiscovery{
		Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Version: gv.Version, Resources: resources})
	for _, s := range storage {
		i.server.RegisterDestroyFunc(s.Destroy)
	}
	return nil
}

// types converts objects to the typed values that server-side apply merges, by the schema that comes with client-go. It is
// parsed at the first use.
type types struct {
	known   func() managedfields.TypeConverter
	deduced managedfields.TypeConverter
}

func newTypes(scheme *runtime.Scheme) types {
	return types{
		known:   sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(scheme) }),
		deduced: managedfields.NewDeducedTypeConverter(),
	}
}

// ObjectToTyped implements managedfields.TypeConverter. Bodies of subresources that nobody applies (Binding, Eviction, …)
// are not in the schema; their shape is deduced.
func (t types) ObjectToTyped(obj runtime.Object, options ...typed.ValidationOptions) (*typed.TypedValue, error) {
	v, err := t.known().ObjectToTyped(obj, options...)
	if err != nil && isBody(obj) {
		return t.deduced.ObjectToTyped(obj, options...)
	}
	return v, err
}

// TypedToObject implements managedfields.TypeConverter.
func (t types) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	return t.known().TypedToObject(v)
}

// isBody says whether obj is only ever the body of a request.
func isBody(obj runtime.Object) bool {
	switch obj.GetObjectKind().GroupVersionKind().Kind {
	case "Binding", "Eviction", "Scale", "TokenRequest", "TokenReview", "SelfSubjectReview",
		"SubjectAccessReview", "SelfSubjectAccessReview", "LocalSubjectAccessReview", "SelfSubjectRulesReview":
		return true
	}
	return false
}
