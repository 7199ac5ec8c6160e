package api

import (
	"fmt"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// subresourceKinds are the kinds that no row has: the bodies and options of subresources, and of the review requests that are
// answered and never stored.
func subresourceKinds() map[schema.GroupVersion][]runtime.Object {
	return map[schema.GroupVersion][]runtime.Object{
		corev1.SchemeGroupVersion: {
			&corev1.Binding{},
			&corev1.PodLogOptions{},
			&corev1.PodExecOptions{},
			&corev1.PodAttachOptions{},
			&corev1.PodPortForwardOptions{},
			&corev1.PodProxyOptions{},
			&corev1.NodeProxyOptions{},
			&corev1.ServiceProxyOptions{},
			&corev1.RangeAllocation{},
			&corev1.SerializedReference{},
		},
		autoscalingv1.SchemeGroupVersion:    {&autoscalingv1.Scale{}},
		policyv1.SchemeGroupVersion:         {&policyv1.Eviction{}},
		authenticationv1.SchemeGroupVersion: {&authenticationv1.TokenRequest{}, &authenticationv1.TokenReview{}, &authenticationv1.SelfSubjectReview{}},
		authorizationv1.SchemeGroupVersion: {
			&authorizationv1.SubjectAccessReview{},
			&authorizationv1.LocalSubjectAccessReview{},
			&authorizationv1.SelfSubjectAccessReview{},
			&authorizationv1.SelfSubjectRulesReview{},
		},
	}
}

// NewScheme returns the scheme of the API server: every kind of the table and every subresource kind under its own version and under
// the internal version of its group, with defaults, field selectors, query parameters and the conversions between versions.
// It panics if the table contradicts itself, which the tests of this package rule out. The caller owns the scheme and may add to
// it before it is first used.
func NewScheme() *runtime.Scheme {
	scheme := newKinds(true)
	for _, r := range Resources() {
		addFieldLabels(scheme, r)
		if r.Default != nil && r.StoredAs.Empty() {
			addDefaults(scheme, r)
		}
	}
	utilruntime.Must(addParameters(scheme))
	utilruntime.Must(addEventConversions(scheme))
	for _, gv := range groupVersions() {
		utilruntime.Must(scheme.SetVersionPriority(gv))
	}
	return scheme
}

// NewNamingScheme returns a scheme of the same kinds without the internal versions, so that a Go type has one name: OpenAPI
// documents name definitions by it.
func NewNamingScheme() *runtime.Scheme {
	return newKinds(false)
}

// newKinds registers the kinds; hub adds the internal versions.
func newKinds(hub bool) *runtime.Scheme {
	scheme := runtime.NewScheme()
	add := func(gv schema.GroupVersion, objs ...runtime.Object) {
		scheme.AddKnownTypes(gv, objs...)
		if hub {
			scheme.AddKnownTypes(schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}, objs...)
		}
	}
	for _, r := range Resources() {
		if r.StoredAs.Empty() {
			add(r.GroupVersion, r.New(), r.NewList())
		}
	}
	for gv, objs := range subresourceKinds() {
		add(gv, objs...)
	}
	scheme.AddKnownTypes(eventsv1.SchemeGroupVersion, &eventsv1.Event{}, &eventsv1.EventList{})
	if hub {
		// The hub of both event kinds is the core one.
		scheme.AddKnownTypes(schema.GroupVersion{Group: eventsv1.GroupName, Version: runtime.APIVersionInternal}, &corev1.Event{}, &corev1.EventList{})
	}
	for _, gv := range groupVersions() {
		metav1.AddToGroupVersion(scheme, gv)
	}
	return scheme
}

// groupVersions are the versions of the table and of the subresource kinds, sorted, each once.
func groupVersions() []schema.GroupVersion {
	var gvs []schema.GroupVersion
	for _, r := range Resources() {
		gvs = append(gvs, r.GroupVersion)
	}
	for gv := range subresourceKinds() {
		gvs = append(gvs, gv)
	}
	slices.SortFunc(gvs, func(a, b schema.GroupVersion) int {
		return slices.Compare([]string{a.Group, a.Version}, []string{b.Group, b.Version})
	})
	return slices.Compact(gvs)
}

// addDefaults lets the row default an object and each item of a list: a client may send either.
func addDefaults(scheme *runtime.Scheme, r *Resource) {
	scheme.AddTypeDefaultingFunc(r.New(), func(obj any) { r.Default(obj.(runtime.Object)) })
	scheme.AddTypeDefaultingFunc(r.NewList(), func(obj any) {
		// The list is one of the table's, so its items are objects and the function returns no error.
		utilruntime.Must(meta.EachListItem(obj.(runtime.Object), func(item runtime.Object) error {
			r.Default(item)
			return nil
		}))
	})
}

// addFieldLabels makes the field selector keys of the row known. Other keys are refused with upstream's words, which differ between
// kinds that select by more than their name and those that do not.
func addFieldLabels(scheme *runtime.Scheme, r *Resource) {
	if r.SelectableFields == nil {
		return // the scheme's own function knows name and namespace
	}
	known := map[string]string{"metadata.name": "metadata.name"}
	if r.Namespaced {
		known["metadata.namespace"] = "metadata.namespace"
	}
	for key := range r.SelectableFields(r.New()) {
		known[key] = key
	}
	for alias, key := range r.FieldAliases {
		if key == "" {
			delete(known, alias)
			continue
		}
		known[alias] = key
	}
	utilruntime.Must(scheme.AddFieldLabelConversionFunc(r.GroupVersion.WithKind(r.Kind), func(label, value string) (string, string, error) {
		key, ok := known[label]
		if !ok {
			return "", "", fmt.Errorf("field label not supported: %s", label)
		}
		return key, value, nil
	}))
}
