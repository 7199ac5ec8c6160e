package subresource

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/skep-io/skep/control/apiserver/registry"
)

// Scale is the scale subresource of a workload: its number of replicas, in a form that is the same for every kind. It is safe
// for concurrent use.
type Scale struct {
	store    *registry.Resource
	resource schema.GroupVersionResource
}

// NewScale makes the subresource of a resource of apps/v1 that Scales know: Deployments and ReplicaSets.
func NewScale(store *registry.Resource, resource schema.GroupVersionResource) *Scale {
	return &Scale{store, resource}
}

// workload points into an object at what its Scale shows.
type workload struct {
	meta     *metav1.ObjectMeta
	replicas **int32
	selector *metav1.LabelSelector
	actual   int32
}

func workloadOf(obj runtime.Object) (workload, error) {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return workload{&o.ObjectMeta, &o.Spec.Replicas, o.Spec.Selector, o.Status.Replicas}, nil
	case *appsv1.ReplicaSet:
		return workload{&o.ObjectMeta, &o.Spec.Replicas, o.Spec.Selector, o.Status.Replicas}, nil
	}
	return workload{}, fmt.Errorf("%T has no scale", obj)
}

func (w workload) scale() (*autoscalingv1.Scale, error) {
	selector, err := metav1.LabelSelectorAsSelector(w.selector)
	if err != nil {
		return nil, err
	}
	s := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: w.meta.Name, Namespace: w.meta.Namespace, UID: w.meta.UID,
			ResourceVersion: w.meta.ResourceVersion, CreationTimestamp: w.meta.CreationTimestamp},
		Status: autoscalingv1.ScaleStatus{Replicas: w.actual, Selector: selector.String()},
	}
	if *w.replicas != nil {
		s.Spec.Replicas = **w.replicas
	}
	return s, nil
}

func scaleOf(obj runtime.Object) (*autoscalingv1.Scale, error) {
	w, err := workloadOf(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	s, err := w.scale()
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return s, nil
}

// New implements rest.Storage.
func (s *Scale) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy implements rest.Storage; the store belongs to the workload's resource.
func (s *Scale) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (s *Scale) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

// Get implements rest.Getter.
func (s *Scale) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := s.store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return scaleOf(obj)
}

// ConvertToTable implements rest.TableConvertor.
func (s *Scale) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return rest.NewDefaultTableConvertor(autoscalingv1.Resource("scales")).ConvertToTable(ctx, obj, options)
}

// Update implements rest.Updater.
func (s *Scale) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	obj, _, err := s.store.Update(ctx, name, &scaleInfo{s, name, info},
		func(ctx context.Context, obj runtime.Object) error {
			scale, err := scaleOf(obj)
			if err != nil {
				return err
			}
			return create(ctx, scale)
		},
		func(ctx context.Context, obj, old runtime.Object) error {
			scale, err := scaleOf(obj)
			if err != nil {
				return err
			}
			before, err := scaleOf(old)
			if err != nil {
				return err
			}
			return update(ctx, scale, before)
		}, false, options)
	if err != nil {
		return nil, false, err
	}
	scale, err := scaleOf(obj)
	return scale, false, err
}

// scaleInfo makes of an update of the Scale one of the workload.
type scaleInfo struct {
	scale *Scale
	name  string
	info  rest.UpdatedObjectInfo
}

// Preconditions implements rest.UpdatedObjectInfo.
func (i *scaleInfo) Preconditions() *metav1.Preconditions { return i.info.Preconditions() }

// UpdatedObject implements rest.UpdatedObjectInfo.
func (i *scaleInfo) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	resource := schema.GroupResource{Group: i.scale.resource.Group, Resource: i.scale.resource.Resource + "/scale"}
	obj := old.DeepCopyObject()
	w, err := workloadOf(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if w.meta.ResourceVersion == "" {
		return nil, apierrors.NewNotFound(resource, i.name)
	}
	version := i.scale.resource.GroupVersion()
	owners := managedfields.NewScaleHandler(w.meta.ManagedFields, version,
		managedfields.ResourcePathMappings{version.String(): fieldpath.MakePathOrDie("spec", "replicas")})
	scale, err := i.updatedScale(ctx, w, owners)
	if err != nil {
		return nil, err
	}
	if scale.UID != "" && scale.UID != w.meta.UID {
		//lint:ignore ST1005 the wording is the API's
		return nil, apierrors.NewConflict(resource, w.meta.Name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", scale.UID, w.meta.UID))
	}
	replicas := scale.Spec.Replicas
	*w.replicas = &replicas
	w.meta.ResourceVersion = scale.ResourceVersion // the store compares it
	if w.meta.ManagedFields, err = owners.ToParent(scale.ManagedFields); err != nil {
		return nil, err
	}
	return obj, nil
}

func (i *scaleInfo) updatedScale(ctx context.Context, w workload, owners *managedfields.ScaleHandler) (*autoscalingv1.Scale, error) {
	before, err := w.scale()
	if err != nil {
		return nil, err
	}
	if before.ManagedFields, err = owners.ToSubresource(); err != nil {
		return nil, err
	}
	obj, err := i.info.UpdatedObject(ctx, before)
	if err != nil {
		return nil, err
	}
	scale, ok := obj.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected input object type to be Scale, but %T", obj))
	}
	errs := metavalidation.ValidateManagedFields(scale.ManagedFields, field.NewPath("metadata", "managedFields"))
	errs = append(errs, validation.ValidateNonnegativeField(int64(scale.Spec.Replicas), field.NewPath("spec", "replicas"))...)
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), w.meta.Name, errs)
	}
	return scale, nil
}
