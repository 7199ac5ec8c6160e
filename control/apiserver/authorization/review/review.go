// Package review answers the questions of who may do what: the storages of SubjectAccessReview, its local and self variants, and
// SelfSubjectRulesReview. Nothing is stored.
package review

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Storages returns the storages by the names of their resources.
func Storages(a authorizer.Authorizer, rules authorizer.RuleResolver) map[string]rest.Storage {
	return map[string]rest.Storage{
		"subjectaccessreviews":      &storage{review: subject{a}},
		"localsubjectaccessreviews": &storage{review: local{a}},
		"selfsubjectaccessreviews":  &storage{review: self{a}},
		"selfsubjectrulesreviews":   &storage{review: selfRules{rules}},
	}
}

// review is one kind of question.
type review interface {
	new() runtime.Object
	singular() string
	namespaced() bool
	// validate checks what needs no lookup.
	validate(obj runtime.Object) error
	// answer returns the object with its status. It owns obj.
	answer(ctx context.Context, obj runtime.Object) (runtime.Object, error)
}

// storage serves one kind of question.
type storage struct{ review review }

var (
	_ rest.Creater              = &storage{}
	_ rest.Scoper               = &storage{}
	_ rest.SingularNameProvider = &storage{}
)

// New implements rest.Storage.
func (s *storage) New() runtime.Object { return s.review.new() }

// Destroy implements rest.Storage; there is nothing to free.
func (s *storage) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (s *storage) NamespaceScoped() bool { return s.review.namespaced() }

// GetSingularName implements rest.SingularNameProvider.
func (s *storage) GetSingularName() string { return s.review.singular() }

// Create implements rest.Creater.
func (s *storage) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if err := s.review.validate(obj); err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	return s.review.answer(ctx, obj.DeepCopyObject())
}

// invalid returns nil where there are no errors.
func invalid(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind(kind).GroupKind(), "", errs)
}

// wrong is the answer to a body of another kind.
func wrong(kind string, obj runtime.Object) error {
	return apierrors.NewBadRequest(fmt.Sprintf("not a %s: %T", kind, obj))
}

// subject asks about any user.
type subject struct{ authorizer authorizer.Authorizer }

func (subject) new() runtime.Object { return &authorizationv1.SubjectAccessReview{} }
func (subject) singular() string    { return "subjectaccessreview" }
func (subject) namespaced() bool    { return false }

func (subject) validate(obj runtime.Object) error {
	r, ok := obj.(*authorizationv1.SubjectAccessReview)
	if !ok {
		return wrong("SubjectAccessReview", obj)
	}
	errs := validateSubject(r.Spec)
	return invalid("SubjectAccessReview", append(errs, validateEmpty(r.ObjectMeta, "must be empty")...))
}

func (q subject) answer(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	r := obj.(*authorizationv1.SubjectAccessReview)
	r.Status = decide(ctx, q.authorizer, attributesOf(r.Spec))
	return r, nil
}

// local asks about any user in the namespace of the request, for those who may not ask about others.
type local struct{ authorizer authorizer.Authorizer }

func (local) new() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} }
func (local) singular() string    { return "localsubjectaccessreview" }
func (local) namespaced() bool    { return true }

func (local) validate(obj runtime.Object) error {
	r, ok := obj.(*authorizationv1.LocalSubjectAccessReview)
	if !ok {
		return wrong("LocalSubjectAccessReview", obj)
	}
	metadata := r.ObjectMeta
	metadata.Namespace = ""
	errs := append(validateSubject(r.Spec), validateEmpty(metadata, "must be empty except for namespace")...)
	spec := field.NewPath("spec")
	if of := r.Spec.ResourceAttributes; of != nil && of.Namespace != r.Namespace {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes", "namespace"), of.Namespace, "must match metadata.namespace"))
	}
	if r.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	return invalid("LocalSubjectAccessReview", errs)
}

func (q local) answer(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	r := obj.(*authorizationv1.LocalSubjectAccessReview)
	// Whoever may ask in one namespace must not ask about another by writing it into the body.
	namespace := genericapirequest.NamespaceValue(ctx)
	if namespace == "" {
		return nil, apierrors.NewBadRequest("namespace is required on this type: ")
	}
	if namespace != r.Namespace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", namespace))
	}
	r.Status = decide(ctx, q.authorizer, attributesOf(r.Spec))
	return r, nil
}

// self asks about the user of the request.
type self struct{ authorizer authorizer.Authorizer }

func (self) new() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }
func (self) singular() string    { return "selfsubjectaccessreview" }
func (self) namespaced() bool    { return false }

func (self) validate(obj runtime.Object) error {
	r, ok := obj.(*authorizationv1.SelfSubjectAccessReview)
	if !ok {
		return wrong("SelfSubjectAccessReview", obj)
	}
	errs := validateQuestion(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return invalid("SelfSubjectAccessReview", append(errs, validateEmpty(r.ObjectMeta, "must be empty")...))
}

func (q self) answer(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	r := obj.(*authorizationv1.SelfSubjectAccessReview)
	who, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	r.Status = decide(ctx, q.authorizer, attributes(who, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes))
	return r, nil
}

// selfRules asks for all that the user of the request may do in a namespace.
type selfRules struct{ rules authorizer.RuleResolver }

func (selfRules) new() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }
func (selfRules) singular() string    { return "selfsubjectrulesreview" }
func (selfRules) namespaced() bool    { return false }

func (selfRules) validate(obj runtime.Object) error {
	r, ok := obj.(*authorizationv1.SelfSubjectRulesReview)
	if !ok {
		return wrong("SelfSubjectRulesReview", obj)
	}
	if r.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request")
	}
	return nil
}

func (q selfRules) answer(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	r := obj.(*authorizationv1.SelfSubjectRulesReview)
	who, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	resources, urls, incomplete, err := q.rules.RulesFor(ctx, who, r.Spec.Namespace)
	// Both lists are required in the answer, so they are empty rather than nil.
	status := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    make([]authorizationv1.ResourceRule, 0, len(resources)),
		NonResourceRules: make([]authorizationv1.NonResourceRule, 0, len(urls)),
		Incomplete:       incomplete,
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	for _, rule := range resources {
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames()})
	}
	for _, rule := range urls {
		status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{
			Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs()})
	}
	return &authorizationv1.SelfSubjectRulesReview{Status: status}, nil
}

// attributesOf is the question of a review about a named user.
func attributesOf(spec authorizationv1.SubjectAccessReviewSpec) authorizer.AttributesRecord {
	who := &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups}
	for k, v := range spec.Extra {
		if who.Extra == nil {
			who.Extra = map[string][]string{}
		}
		who.Extra[k] = v
	}
	return attributes(who, spec.ResourceAttributes, spec.NonResourceAttributes)
}
