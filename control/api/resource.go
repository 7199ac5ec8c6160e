// Package api is the table of the kinds that skep serves: one Resource row per kind, with its names, its defaults, its
// validation, the fields it can be selected by and the columns it prints. It has no I/O and no state: the API server reads
// the table to serve, everything else only shares the Go types.
//
// Versioned types are the hub: a row names the Go type of k8s.io/api, and Scheme registers it both under its own version and
// under "__internal", which the request handlers of k8s.io/apiserver insist on, so a conversion is never a copy.
package api

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Resource is one served kind. Hooks may be nil: a nil hook does nothing, and a nil validation accepts. Objects given to hooks
// are always of the row's own type. No hook may keep or share what it is given.
type Resource struct {
	// GroupVersion and Kind name the type on the wire; Name is the plural resource name of the URL, Singular its singular.
	GroupVersion schema.GroupVersion
	Kind         string
	Name         string
	Singular     string
	// ShortNames and Categories are what the CLI accepts besides Name ("po", "all").
	ShortNames []string
	Categories []string
	// Namespaced says whether objects live in a namespace.
	Namespaced bool
	// StoredAs is set where two rows serve the same objects (events.k8s.io serves the events of the core group): it names the
	// row whose key space and version they are stored in. New and NewList are then of that row's Go types, which convert to
	// the types of GroupVersion on the wire. The zero value means that the row is stored as itself.
	StoredAs schema.GroupVersionResource

	// New and NewList return empty objects of the Go types that hooks, storage and caches see.
	New     func() runtime.Object
	NewList func() runtime.Object

	// HasStatus serves the status subresource: a write to the resource keeps the stored status, a write to status keeps the rest.
	HasStatus bool
	// HasScale serves the scale subresource (autoscaling/v1 Scale).
	HasScale bool
	// AllowCreateOnUpdate lets a PUT create the object, as upstream does for a few kinds (Lease, Event, Endpoints, …).
	AllowCreateOnUpdate bool
	// AllowUnconditionalUpdate lets a PUT without resourceVersion overwrite, as upstream does for most kinds.
	AllowUnconditionalUpdate bool

	// Default fills what the writer left out. It must be idempotent: it runs on every decode, of requests and of stored objects.
	Default func(obj runtime.Object)
	// ValidateName checks metadata.name as upstream does for the kind; prefix is set for generateName.
	ValidateName func(name string, prefix bool) []string
	// PrepareForCreate drops what the writer may not set (status) and sets what the server owns (generation), before Validate.
	PrepareForCreate func(obj runtime.Object)
	// PrepareForUpdate does the same for an update, old being the stored object; it bumps metadata.generation when the spec changed.
	PrepareForUpdate func(obj, old runtime.Object)
	// PrepareForStatusUpdate keeps all but the status as stored.
	PrepareForStatusUpdate func(obj, old runtime.Object)
	// Validate checks a new object beyond its ObjectMeta, which the server checks with ValidateName and Namespaced.
	Validate func(obj runtime.Object) field.ErrorList
	// ValidateUpdate checks a changed object beyond its ObjectMeta; it includes what Validate checks where upstream does so.
	ValidateUpdate func(obj, old runtime.Object) field.ErrorList
	// ValidateStatusUpdate checks a write to the status subresource.
	ValidateStatusUpdate func(obj, old runtime.Object) field.ErrorList
	// Warnings returns what the writer should know although the object is accepted.
	Warnings func(obj runtime.Object) []string

	// SelectableFields are the field selector keys of an object besides metadata.name and metadata.namespace, with its values.
	// Every key must be present for every object (with an empty value where there is none).
	SelectableFields func(obj runtime.Object) fields.Set
	// FieldAliases maps further field selector keys that clients may write to keys of SelectableFields. An empty value takes a key
	// away from clients of this row.
	FieldAliases map[string]string
	// Columns and Cells make the Table output; the values of Cells are in the order of Columns. Nil: name and age.
	Columns []metav1.TableColumnDefinition
	Cells   func(obj runtime.Object) []any
}

// GroupResource is the row's group and plural name, as errors and storage use it.
func (r *Resource) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.GroupVersion.Group, Resource: r.Name}
}

// Storage returns the group, version and plural name that the row's objects are stored under.
func (r *Resource) Storage() schema.GroupVersionResource {
	if r.StoredAs.Resource != "" {
		return r.StoredAs
	}
	return r.GroupVersion.WithResource(r.Name)
}
