package subresource

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storageerrors "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/skep-io/skep/control/api"
	"github.com/skep-io/skep/control/apiserver/registry"
)

// namespaceStore is what namespaces share with other kinds. They cannot be deleted as a collection.
type namespaceStore interface {
	rest.Getter
	rest.Lister
	rest.CreaterUpdater
	rest.Watcher
	rest.Scoper
	rest.SingularNameProvider
	rest.ShortNamesProvider
	rest.CategoriesProvider
	rest.ResetFieldsStrategy
	rest.StorageVersionProvider
}

// Namespaces are the namespaces, deleted in two phases: the first DELETE makes a namespace Terminating, and it goes when the
// last of its finalizers is removed. It is safe for concurrent use.
type Namespaces struct {
	namespaceStore
	store *genericregistry.Store
}

// NewNamespaces makes the resource over its store, and lets no update remove a namespace that still has finalizers in its spec.
func NewNamespaces(r *registry.Resource) *Namespaces {
	r.ShouldDeleteDuringUpdate = func(ctx context.Context, key string, obj, old runtime.Object) bool {
		n, ok := obj.(*corev1.Namespace)
		return ok && len(n.Spec.Finalizers) == 0 && genericregistry.ShouldDeleteDuringUpdate(ctx, key, obj, old)
	}
	return &Namespaces{namespaceStore: r, store: r.Store}
}

// Destroy implements rest.Storage.
func (n *Namespaces) Destroy() { n.store.Destroy() }

// Delete implements rest.GracefulDeleter.
func (n *Namespaces) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := n.store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	namespace, ok := obj.(*corev1.Namespace)
	if !ok {
		return nil, false, fmt.Errorf("expected *v1.Namespace, got %T", obj)
	}
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	if err := pin(namespace, options); err != nil {
		return nil, false, err
	}
	if namespace.DeletionTimestamp.IsZero() {
		out, err := n.terminate(ctx, name, validate, options)
		return out, false, err
	}
	if len(namespace.Spec.Finalizers) != 0 {
		return namespace, false, nil
	}
	return n.store.Delete(ctx, name, validate, options)
}

// pin makes the options mean this very namespace, and fails if they mean another.
func pin(n *corev1.Namespace, options *metav1.DeleteOptions) error {
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	p := options.Preconditions
	if p.UID == nil {
		p.UID = &n.UID
	}
	conflict := func(what string, want, has any) error {
		//lint:ignore ST1005 the wording is the API's
		return apierrors.NewConflict(corev1.Resource("namespaces"), n.Name, fmt.Errorf("Precondition failed: %s in precondition: %v, %s in object meta: %v", what, want, what, has))
	}
	if *p.UID != n.UID {
		return conflict("UID", *p.UID, n.UID)
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != n.ResourceVersion {
		return conflict("ResourceVersion", *p.ResourceVersion, n.ResourceVersion)
	}
	return nil
}

func (n *Namespaces) terminate(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, error) {
	key, err := n.store.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	out := n.store.NewFunc()
	preconditions := &storage.Preconditions{UID: options.Preconditions.UID, ResourceVersion: options.Preconditions.ResourceVersion}
	err = n.store.Storage.GuaranteedUpdate(ctx, key, out, false, preconditions, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		namespace, ok := obj.(*corev1.Namespace)
		if !ok {
			return nil, fmt.Errorf("expected *v1.Namespace, got %T", obj)
		}
		if err := validate(ctx, namespace); err != nil {
			return nil, err
		}
		if namespace.DeletionTimestamp.IsZero() {
			now := metav1.Now()
			namespace.DeletionTimestamp = &now
		}
		namespace.Status.Phase = corev1.NamespaceTerminating
		propagate(namespace, options)
		return namespace, nil
	}), dryrun.IsDryRun(options.DryRun), nil)
	if err == nil {
		return out, nil
	}
	resource := corev1.Resource("namespaces")
	err = storageerrors.InterpretUpdateError(storageerrors.InterpretGetError(err, resource, name), resource, name)
	if _, ok := err.(apierrors.APIStatus); !ok {
		err = apierrors.NewInternalError(err)
	}
	return nil, err
}

// propagate sets the finalizers that the garbage collector acts on; what the options do not speak of stays.
func propagate(n *corev1.Namespace, options *metav1.DeleteOptions) {
	var orphan, foreground bool
	switch {
	//lint:ignore SA1019 older clients send it
	case options.OrphanDependents != nil:
		//lint:ignore SA1019 as above
		orphan, foreground = *options.OrphanDependents, !*options.OrphanDependents
	case options.PropagationPolicy != nil:
		orphan = *options.PropagationPolicy == metav1.DeletePropagationOrphan
		foreground = *options.PropagationPolicy == metav1.DeletePropagationForeground
	default:
		return
	}
	for finalizer, want := range map[string]bool{metav1.FinalizerOrphanDependents: orphan, metav1.FinalizerDeleteDependents: foreground} {
		at := slices.Index(n.Finalizers, finalizer)
		switch {
		case want && at < 0:
			n.Finalizers = append(n.Finalizers, finalizer)
		case !want && at >= 0:
			n.Finalizers = slices.Delete(n.Finalizers, at, at+1)
		}
	}
}

// Finalize is namespaces/finalize, through which spec.finalizers are removed. It is safe for concurrent use.
type Finalize struct{ store *genericregistry.Store }

// NewFinalize makes namespaces/finalize; it is made after NewNamespaces, whose rule for removal it shares.
func NewFinalize(r *registry.Resource) *Finalize {
	store := r.Unchecked()
	store.UpdateStrategy = finalizeStrategy{store.UpdateStrategy}
	return &Finalize{store}
}

// finalizeStrategy keeps the status.
type finalizeStrategy struct{ rest.RESTUpdateStrategy }

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (finalizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	if n, ok := obj.(*corev1.Namespace); ok {
		n.Status = old.(*corev1.Namespace).Status
	}
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (s finalizeStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	errs := s.RESTUpdateStrategy.ValidateUpdate(ctx, obj, old)
	if n, ok := obj.(*corev1.Namespace); ok {
		errs = append(errs, api.ValidateNamespaceFinalizers(n)...)
	}
	return errs
}

// New implements rest.Storage.
func (f *Finalize) New() runtime.Object { return f.store.New() }

// Destroy implements rest.Storage; the store belongs to the namespaces.
func (f *Finalize) Destroy() {}

// Update implements rest.Updater.
func (f *Finalize) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return f.store.Update(ctx, name, info, create, update, false, o)
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (f *Finalize) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return f.store.GetResetFields()
}
