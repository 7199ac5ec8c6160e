package registry

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/skep-io/skep/control/api"
)

// strategy is the one strategy of all kinds: it does what the kind's row says.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	row *api.Resource
}

func newStrategy(typer runtime.ObjectTyper, row *api.Resource) strategy {
	return strategy{ObjectTyper: typer, NameGenerator: names.SimpleNameGenerator, row: row}
}

// NamespaceScoped implements rest.RESTCreateStrategy.
func (s strategy) NamespaceScoped() bool { return s.row.Namespaced }

// PrepareForCreate implements rest.RESTCreateStrategy.
func (s strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	if s.row.PrepareForCreate != nil {
		s.row.PrepareForCreate(obj)
	}
}

// Validate implements rest.RESTCreateStrategy.
func (s strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	name := s.row.ValidateName
	if name == nil {
		name = validation.NameIsDNSSubdomain
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return field.ErrorList{field.InternalError(field.NewPath("metadata"), err)}
	}
	errs := validation.ValidateObjectMetaAccessor(m, s.row.Namespaced, name, field.NewPath("metadata"))
	if s.row.Validate != nil {
		errs = append(errs, s.row.Validate(obj)...)
	}
	return errs
}

// WarningsOnCreate implements rest.RESTCreateStrategy.
func (s strategy) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	if s.row.Warnings == nil {
		return nil
	}
	return s.row.Warnings(obj)
}

// Canonicalize implements rest.RESTCreateStrategy.
func (s strategy) Canonicalize(runtime.Object) {}

// AllowCreateOnUpdate implements rest.RESTUpdateStrategy.
func (s strategy) AllowCreateOnUpdate(context.Context) bool { return s.row.AllowCreateOnUpdate }

// AllowUnconditionalUpdate implements rest.RESTUpdateStrategy.
func (s strategy) AllowUnconditionalUpdate(context.Context) bool {
	return s.row.AllowUnconditionalUpdate
}

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (s strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	if s.row.PrepareForUpdate != nil {
		s.row.PrepareForUpdate(obj, old)
	}
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (s strategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	errs := validateMetaUpdate(obj, old)
	if s.row.ValidateUpdate != nil {
		errs = append(errs, s.row.ValidateUpdate(obj, old)...)
	}
	return errs
}

func validateMetaUpdate(obj, old runtime.Object) field.ErrorList {
	path := field.NewPath("metadata")
	now, err := meta.Accessor(obj)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	before, err := meta.Accessor(old)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	return validation.ValidateObjectMetaAccessorUpdate(now, before, path)
}

// WarningsOnUpdate implements rest.RESTUpdateStrategy.
func (s strategy) WarningsOnUpdate(ctx context.Context, obj, _ runtime.Object) []string {
	return s.WarningsOnCreate(ctx, obj)
}

// GetResetFields implements rest.ResetFieldsStrategy: what an apply to the resource itself never owns.
func (s strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if !s.row.HasStatus {
		return nil
	}
	return s.reset(fieldpath.MakePathOrDie("status"))
}

func (s strategy) reset(paths ...fieldpath.Path) map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(s.row.GroupVersion.String()): fieldpath.NewSet(paths...)}
}

// statusStrategy writes the status alone.
type statusStrategy struct{ strategy }

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (s statusStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	if s.row.PrepareForStatusUpdate != nil {
		s.row.PrepareForStatusUpdate(obj, old)
	}
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (s statusStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	errs := validateMetaUpdate(obj, old)
	if s.row.ValidateStatusUpdate != nil {
		errs = append(errs, s.row.ValidateStatusUpdate(obj, old)...)
	}
	return errs
}

// AllowCreateOnUpdate implements rest.RESTUpdateStrategy: a status never creates its object.
func (s statusStrategy) AllowCreateOnUpdate(context.Context) bool { return false }

// WarningsOnUpdate implements rest.RESTUpdateStrategy.
func (s statusStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// GetResetFields implements rest.ResetFieldsStrategy: what an apply to the status never owns.
func (s statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.reset(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata", "labels"), fieldpath.MakePathOrDie("metadata", "annotations"),
		fieldpath.MakePathOrDie("metadata", "finalizers"), fieldpath.MakePathOrDie("metadata", "ownerReferences"), fieldpath.MakePathOrDie("metadata", "deletionTimestamp"))
}
