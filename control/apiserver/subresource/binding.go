package subresource

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storageerrors "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/skep-io/skep/control/apiserver/registry"
)

// Binding is pods/binding: it assigns a pod to a node, once. It is safe for concurrent use.
type Binding struct{ pods *genericregistry.Store }

// NewBinding makes pods/binding over the store of pods.
func NewBinding(pods *registry.Resource) *Binding { return &Binding{pods.Unchecked()} }

// New implements rest.Storage.
func (b *Binding) New() runtime.Object { return &corev1.Binding{} }

// Destroy implements rest.Storage; the store belongs to the pods.
func (b *Binding) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (b *Binding) NamespaceScoped() bool { return true }

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate implements rest.SubresourceObjectMetaPreserver: UID and
// resourceVersion of a Binding are preconditions on the pod.
func (b *Binding) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

// Create implements rest.NamedCreater. A pod that cannot be assigned any more is a conflict.
func (b *Binding) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", obj))
	}
	if name != binding.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if errs := validateBinding(binding); len(errs) != 0 {
		return nil, errs.ToAggregate()
	}
	if validate != nil {
		if err := validate(ctx, binding.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := b.assign(ctx, binding, dryrun.IsDryRun(options.DryRun)); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func (b *Binding) assign(ctx context.Context, binding *corev1.Binding, dryRun bool) error {
	key, err := b.pods.KeyFunc(ctx, binding.Name)
	if err != nil {
		return err
	}
	preconditions := &storage.Preconditions{}
	if binding.UID != "" {
		preconditions.UID = &binding.UID
	}
	if binding.ResourceVersion != "" {
		preconditions.ResourceVersion = &binding.ResourceVersion
	}
	err = b.pods.Storage.GuaranteedUpdate(ctx, key, &corev1.Pod{}, false, preconditions, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			return nil, fmt.Errorf("unexpected object: %T", obj)
		}
		return pod, bind(pod, binding)
	}), dryRun, nil)
	if err == nil {
		return nil
	}
	pods := corev1.Resource("pods")
	err = storageerrors.InterpretUpdateError(storageerrors.InterpretGetError(err, pods, binding.Name), pods, binding.Name)
	if _, ok := err.(apierrors.APIStatus); !ok {
		err = apierrors.NewConflict(corev1.Resource("pods/binding"), binding.Name, err)
	}
	return err
}

// bind changes the pod as the binding says, or says why it cannot be bound.
func bind(pod *corev1.Pod, binding *corev1.Binding) error {
	switch {
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return fmt.Errorf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) != 0:
		return fmt.Errorf("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = binding.Target.Name
	pod.Status.NominatedNodeName = ""
	pod.Annotations = merged(pod.Annotations, binding.Annotations)
	pod.Labels = merged(pod.Labels, binding.Labels)
	setCondition(&pod.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
	return nil
}

func merged(into, from map[string]string) map[string]string {
	if into == nil && len(from) != 0 {
		into = map[string]string{}
	}
	maps.Copy(into, from)
	return into
}

// setCondition sets a condition; the time of its last transition stays if its status does.
func setCondition(status *corev1.PodStatus, c corev1.PodCondition) {
	c.LastTransitionTime = metav1.Now()
	for i, old := range status.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		status.Conditions[i] = c
		return
	}
	status.Conditions = append(status.Conditions, c)
}

func validateBinding(b *corev1.Binding) field.ErrorList {
	target := field.NewPath("target")
	var errs field.ErrorList
	ofNode := b.Target.Kind == "" || b.Target.Kind == "Node"
	if !ofNode {
		errs = append(errs, field.NotSupported(target.Child("kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		return append(errs, field.Required(target.Child("name"), ""))
	}
	if ofNode {
		for _, msg := range validation.NameIsDNSSubdomain(b.Target.Name, false) {
			errs = append(errs, field.Invalid(target.Child("name"), b.Target.Name, msg))
		}
	}
	return errs
}

// Bindings is the bindings resource of a namespace: the same as pods/binding, with the pod's name in the body alone.
type Bindings struct{ binding *Binding }

// NewBindings makes the bindings resource.
func NewBindings(b *Binding) *Bindings { return &Bindings{b} }

// New implements rest.Storage.
func (b *Bindings) New() runtime.Object { return b.binding.New() }

// Destroy implements rest.Storage; the store belongs to the pods.
func (b *Bindings) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (b *Bindings) NamespaceScoped() bool { return true }

// GetSingularName implements rest.SingularNameProvider.
func (b *Bindings) GetSingularName() string { return "binding" }

// Create implements rest.Creater.
func (b *Bindings) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", obj))
	}
	return b.binding.Create(ctx, binding.Name, obj, validate, options)
}
