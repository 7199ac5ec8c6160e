package token

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

var requestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// REST is the storage of serviceaccounts/token.
type REST struct {
	issuer  *Issuer
	objects Objects
}

var (
	_ rest.NamedCreater                   = &REST{}
	_ rest.GroupVersionKindProvider       = &REST{}
	_ rest.SubresourceObjectMetaPreserver = &REST{}
)

// NewREST returns the storage that issues tokens.
func NewREST(issuer *Issuer, objects Objects) *REST {
	return &REST{issuer: issuer, objects: objects}
}

// New implements rest.Storage.
func (r *REST) New() runtime.Object { return &authenticationv1.TokenRequest{} }

// Destroy implements rest.Storage; there is nothing to free.
func (r *REST) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider: the body is of another group than the ServiceAccount.
func (r *REST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind { return requestKind }

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate implements rest.SubresourceObjectMetaPreserver: the UID in the request
// is compared with that of the account.
func (r *REST) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

// Create issues a token of the ServiceAccount name.
func (r *REST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	req, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest: %T", obj))
	}
	namespace, ok := genericapirequest.NamespaceFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("namespace is required")
	}
	if errs := validateAddress(req, namespace, name); len(errs) > 0 {
		return nil, apierrors.NewInvalid(requestKind.GroupKind(), name, errs)
	}
	sa, err := get[*corev1.ServiceAccount](ctx, r.objects.ServiceAccounts, namespace, name)
	if err != nil {
		return nil, err
	}
	if req.UID != "" && req.UID != sa.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: requestKind.Group, Resource: requestKind.Kind}, name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", req.UID, sa.UID))
	}
	req = r.complete(req, sa)
	if errs := validateSpec(&req.Spec); len(errs) > 0 {
		return nil, apierrors.NewInvalid(requestKind.GroupKind(), "", errs)
	}
	if validate != nil {
		if err := validate(ctx, req.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	bound, err := r.bind(ctx, sa, req.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	signed, expires, err := r.issuer.Issue(sa, &req.Spec, bound)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	req.Status = authenticationv1.TokenRequestStatus{Token: signed, ExpirationTimestamp: metav1.NewTime(expires)}
	return req, nil
}

// complete fills what the request leaves open. The request itself stays as it is.
func (r *REST) complete(req *authenticationv1.TokenRequest, sa *corev1.ServiceAccount) *authenticationv1.TokenRequest {
	out := req.DeepCopy()
	out.Name, out.Namespace, out.UID = sa.Name, sa.Namespace, sa.UID
	out.CreationTimestamp = metav1.NewTime(r.issuer.now())
	out.Status = authenticationv1.TokenRequestStatus{}
	if len(out.Spec.Audiences) == 0 {
		out.Spec.Audiences = r.issuer.Audiences()
	}
	if out.Spec.ExpirationSeconds == nil {
		life := int64(DefaultLife)
		out.Spec.ExpirationSeconds = &life
	}
	return out
}

// validateAddress checks that a body which names its account names the one in the URL.
func validateAddress(req *authenticationv1.TokenRequest, namespace, name string) field.ErrorList {
	metadata := field.NewPath("metadata")
	if req.Name != "" && req.Name != name {
		return field.ErrorList{field.Invalid(metadata.Child("name"), req.Name, "must match the service account name if specified")}
	}
	if req.Namespace != "" && req.Namespace != namespace {
		return field.ErrorList{field.Invalid(metadata.Child("namespace"), req.Namespace, "must match the service account namespace if specified")}
	}
	return nil
}

func validateSpec(spec *authenticationv1.TokenRequestSpec) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	life := *spec.ExpirationSeconds
	if life < MinLife {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), life, "may not specify a duration less than 10 minutes"))
	}
	if life > MaxLife {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), life, "may not specify a duration larger than 2^32 seconds"))
	}
	if len(spec.Attestations) > 0 {
		errs = append(errs, field.Invalid(path.Child("attestations"), spec.Attestations, "attestations may only be specified with a webhook bound object reference"))
	}
	return errs
}

// bind reads the object that the token is to be bound to.
func (r *REST) bind(ctx context.Context, sa *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) (Bound, error) {
	if ref == nil {
		return Bound{}, nil
	}
	var bound Bound
	var uid types.UID
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	switch kind.GroupKind() {
	case schema.GroupKind{Kind: "Pod"}:
		pod, err := get[*corev1.Pod](ctx, r.objects.Pods, sa.Namespace, ref.Name)
		if err != nil {
			return bound, err
		}
		if pod.Spec.ServiceAccountName != sa.Name {
			return bound, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", sa.Name))
		}
		node, err := r.nodeOf(ctx, pod)
		if err != nil {
			return bound, err
		}
		bound.Pod, bound.Node, uid = pod, node, pod.UID
	case schema.GroupKind{Kind: "Secret"}:
		secret, err := get[*corev1.Secret](ctx, r.objects.Secrets, sa.Namespace, ref.Name)
		if err != nil {
			return bound, err
		}
		bound.Secret, uid = secret, secret.UID
	case schema.GroupKind{Kind: "Node"}:
		node, err := get[*corev1.Node](ctx, r.objects.Nodes, metav1.NamespaceNone, ref.Name)
		if err != nil {
			return bound, err
		}
		bound.Node, uid = node, node.UID
	default:
		return bound, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", kind.String()))
	}
	if ref.UID != "" && ref.UID != uid {
		return bound, apierrors.NewConflict(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return bound, nil
}

// nodeOf returns the node of a pod: nil before the pod is scheduled, and only its name if there is no such node.
func (r *REST) nodeOf(ctx context.Context, pod *corev1.Pod) (*corev1.Node, error) {
	name := pod.Spec.NodeName
	if name == "" {
		return nil, nil
	}
	node, err := r.objects.node(ctx, name)
	switch {
	case apierrors.IsNotFound(err):
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
	case err != nil:
		return nil, apierrors.NewInternalError(err)
	}
	return node, nil
}
