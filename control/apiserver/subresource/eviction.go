package subresource

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/skep-io/skep/control/apiserver/registry"
)

// Eviction is pods/eviction: a deletion that tells the pod's watchers its reason. There are no disruption budgets that could
// refuse it. It is safe for concurrent use.
type Eviction struct{ pods *genericregistry.Store }

// NewEviction makes pods/eviction over the store of pods.
func NewEviction(pods *registry.Resource) *Eviction { return &Eviction{pods.Unchecked()} }

// New implements rest.Storage.
func (e *Eviction) New() runtime.Object { return &policyv1.Eviction{} }

// Destroy implements rest.Storage; the store belongs to the pods.
func (e *Eviction) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider: the body is of another group than the pod.
func (e *Eviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

// AcceptsGroupVersion implements rest.GroupVersionAcceptor.
func (e *Eviction) AcceptsGroupVersion(gv schema.GroupVersion) bool {
	return gv == policyv1.SchemeGroupVersion
}

// Create implements rest.NamedCreater.
func (e *Eviction) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	eviction, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", obj))
	}
	if name != eviction.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	deletion, err := deleteOptions(eviction, options)
	if err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, eviction.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if !dryrun.IsDryRun(deletion.DryRun) {
		if err := e.mark(ctx, name, deletion); err != nil {
			return nil, err
		}
	}
	if _, _, err := e.pods.Delete(ctx, name, rest.ValidateAllObjectFunc, deletion); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// mark writes the reason into the pod's status. A resourceVersion that the deletion demands is moved on to the one written.
func (e *Eviction) mark(ctx context.Context, name string, deletion *metav1.DeleteOptions) error {
	info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		pod := old.DeepCopyObject().(*corev1.Pod)
		if err := demand(pod, deletion.Preconditions); err != nil {
			return nil, err
		}
		setCondition(&pod.Status, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting"})
		return pod, nil
	})
	obj, _, err := e.pods.Update(ctx, name, info, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	if p := deletion.Preconditions; p != nil && p.ResourceVersion != nil {
		version := obj.(*corev1.Pod).ResourceVersion
		p.ResourceVersion = &version
	}
	return nil
}

func demand(pod *corev1.Pod, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	resource := schema.GroupResource{Resource: "Pod"}
	if p.UID != nil && *p.UID != "" && *p.UID != pod.UID {
		return apierrors.NewConflict(resource, pod.Name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). "+
			"The object might have been deleted and then recreated", *p.UID, pod.UID))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != "" && *p.ResourceVersion != pod.ResourceVersion {
		return apierrors.NewConflict(resource, pod.Name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). "+
			"The object might have been modified", *p.ResourceVersion, pod.ResourceVersion))
	}
	return nil
}

// deleteOptions are those of the body, dry if the body or the request says so. The caller owns them.
func deleteOptions(eviction *policyv1.Eviction, options *metav1.CreateOptions) (*metav1.DeleteOptions, error) {
	if eviction.DeleteOptions == nil {
		return &metav1.DeleteOptions{DryRun: options.DryRun}, nil
	}
	d := eviction.DeleteOptions.DeepCopy()
	switch {
	case len(d.DryRun) == 0:
		d.DryRun = options.DryRun
	case len(options.DryRun) != 0 && !slices.Equal(d.DryRun, options.DryRun):
		//lint:ignore ST1005 the wording is the API's
		return nil, fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", options.DryRun, d.DryRun)
	}
	return d, nil
}
