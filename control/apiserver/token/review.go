package token

import (
	"context"
	"errors"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// errAudience is returned when an authenticator accepts a token for audiences that nobody asked for, which is its fault.
var errAudience = errors.New("error validating audience")

var (
	_ rest.Creater              = &ReviewREST{}
	_ rest.Scoper               = &ReviewREST{}
	_ rest.SingularNameProvider = &ReviewREST{}
	_ rest.Creater              = &SelfReviewREST{}
	_ rest.Scoper               = &SelfReviewREST{}
	_ rest.SingularNameProvider = &SelfReviewREST{}
)

// ReviewREST is the storage of tokenreviews: it tells who bears a token.
type ReviewREST struct {
	tokens    authenticator.Token
	audiences authenticator.Audiences
}

// NewReviewREST returns the storage that asks tokens. apiAudiences are those of the API server, which a review means that names none.
func NewReviewREST(tokens authenticator.Token, apiAudiences authenticator.Audiences) *ReviewREST {
	return &ReviewREST{tokens: tokens, audiences: apiAudiences}
}

// New implements rest.Storage.
func (r *ReviewREST) New() runtime.Object { return &authenticationv1.TokenReview{} }

// Destroy implements rest.Storage; there is nothing to free.
func (r *ReviewREST) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (r *ReviewREST) NamespaceScoped() bool { return false }

// GetSingularName implements rest.SingularNameProvider.
func (r *ReviewREST) GetSingularName() string { return "tokenreview" }

// Create answers a review. A token that is not accepted is an answer, not an error.
func (r *ReviewREST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review, ok := obj.(*authenticationv1.TokenReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenReview: %T", obj))
	}
	if review.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	audiences := authenticator.Audiences(review.Spec.Audiences)
	if len(audiences) == 0 {
		audiences = r.audiences
	}
	resp, ok, err := r.tokens.AuthenticateToken(authenticator.WithAudiences(ctx, audiences), review.Spec.Token)
	out := review.DeepCopy()
	out.Status = authenticationv1.TokenReviewStatus{Authenticated: ok}
	if err != nil {
		out.Status.Error = err.Error()
	}
	if resp == nil || resp.User == nil {
		return out, nil
	}
	if len(audiences.Intersect(resp.Audiences)) == 0 {
		return nil, errAudience
	}
	out.Status.User = userInfo(resp.User)
	out.Status.Audiences = resp.Audiences
	return out, nil
}

// SelfReviewREST is the storage of selfsubjectreviews: it tells users who they are.
type SelfReviewREST struct{}

// NewSelfReviewREST returns the storage.
func NewSelfReviewREST() *SelfReviewREST { return &SelfReviewREST{} }

// New implements rest.Storage.
func (r *SelfReviewREST) New() runtime.Object { return &authenticationv1.SelfSubjectReview{} }

// Destroy implements rest.Storage; there is nothing to free.
func (r *SelfReviewREST) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (r *SelfReviewREST) NamespaceScoped() bool { return false }

// GetSingularName implements rest.SingularNameProvider.
func (r *SelfReviewREST) GetSingularName() string { return "selfsubjectreview" }

// Create returns the user of the request.
func (r *SelfReviewREST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	return &authenticationv1.SelfSubjectReview{
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Now()},
		Status:     authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(u)},
	}, nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	extra := make(map[string]authenticationv1.ExtraValue, len(u.GetExtra()))
	for k, v := range u.GetExtra() {
		extra[k] = v
	}
	return authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: extra}
}
