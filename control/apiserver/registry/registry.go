// Package registry turns rows of the API table into stores: one generic strategy reads the row, and one constructor makes the
// store of a resource.
package registry

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/skep-io/skep/control/api"
)

// Resource is the store of one kind. It is safe for concurrent use.
type Resource struct {
	*genericregistry.Store
	row      *api.Resource
	strategy strategy
}

// Options are what a store needs besides its row.
type Options struct {
	// REST says how the kind is stored.
	REST generic.RESTOptionsGetter
	// Graceful decides how objects are deleted; nil deletes at once.
	Graceful GracefulDelete
	// SharedWith is the store of the row that this row is stored as, nil for a row of its own.
	SharedWith *Resource
}

// New makes the store of a row.
func New(typer runtime.ObjectTyper, row *api.Resource, o Options) (*Resource, error) {
	s := newStrategy(typer, row)
	stored := row.Storage().GroupResource()
	singular := stored
	singular.Resource = row.Singular
	store := &genericregistry.Store{
		NewFunc:                   row.New,
		NewListFunc:               row.NewList,
		DefaultQualifiedResource:  stored,
		SingularQualifiedResource: singular,
		CreateStrategy:            s,
		UpdateStrategy:            s,
		DeleteStrategy:            deleteStrategy(s, o.Graceful),
		ResetFieldsStrategy:       s,
		TableConvertor:            newTable(row),
		PredicateFunc:             predicate(row),
	}
	if o.SharedWith != nil {
		store.Storage, store.StorageVersioner = o.SharedWith.Storage, o.SharedWith.StorageVersioner
	}
	err := store.CompleteWithOptions(&generic.StoreOptions{
		RESTOptions: o.REST, AttrFunc: attributes(row), TriggerFunc: triggers(row), Indexers: indexers(row)})
	if err != nil {
		return nil, fmt.Errorf("store of %s: %w", row.GroupResource(), err)
	}
	return &Resource{Store: store, row: row, strategy: s}, nil
}

// ShortNames implements rest.ShortNamesProvider.
func (r *Resource) ShortNames() []string { return r.row.ShortNames }

// Categories implements rest.CategoriesProvider.
func (r *Resource) Categories() []string { return r.row.Categories }

// Unchecked is the same store without the row's rules for updates, for subresources that have their own.
func (r *Resource) Unchecked() *genericregistry.Store {
	store := *r.Store
	store.UpdateStrategy = unchecked{r.strategy}
	return &store
}

// unchecked leaves to its user what an update may change.
type unchecked struct{ strategy }

func (unchecked) PrepareForUpdate(context.Context, runtime.Object, runtime.Object) {}

func (unchecked) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validateMetaUpdate(obj, old)
}

// Status is the status subresource of a kind.
type Status struct{ store *genericregistry.Store }

// Status returns the status subresource of the same objects.
func (r *Resource) Status() *Status {
	store := *r.Store
	s := statusStrategy{r.strategy}
	store.UpdateStrategy, store.ResetFieldsStrategy = s, s
	return &Status{store: &store}
}

// New implements rest.Storage.
func (s *Status) New() runtime.Object { return s.store.New() }

// Destroy implements rest.Storage; the store belongs to the resource.
func (s *Status) Destroy() {}

// Get implements rest.Getter.
func (s *Status) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	return s.store.Get(ctx, name, o)
}

// Update implements rest.Updater.
func (s *Status) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return s.store.Update(ctx, name, info, create, update, false, o)
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (s *Status) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.store.GetResetFields()
}

// ConvertToTable implements rest.TableConvertor.
func (s *Status) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return s.store.ConvertToTable(ctx, obj, options)
}
