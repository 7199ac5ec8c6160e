package token

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"gopkg.in/go-jose/go-jose.v2/jwt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	authenticationjwt "k8s.io/apiserver/pkg/authentication/token/jwt"
	"k8s.io/apiserver/pkg/registry/rest"
)

// errInvalidated is the answer to a token whose bound object is gone.
var errInvalidated = errors.New("service account token has been invalidated")

// Authenticator tells who bears a token of the issuer. It leaves tokens of other issuers to others, and refuses those of this one
// that are not valid now or name an object that is gone.
func (i *Issuer) Authenticator(objects Objects) authenticator.Token {
	return &bearer{issuer: i, objects: objects}
}

type bearer struct {
	issuer  *Issuer
	objects Objects
}

// AuthenticateToken implements authenticator.Token.
func (b *bearer) AuthenticateToken(ctx context.Context, data string) (*authenticator.Response, bool, error) {
	if claimedIssuer(data) != b.issuer.name {
		return nil, false, nil
	}
	parsed, err := jwt.ParseSigned(data)
	if err != nil {
		return nil, false, nil
	}
	if len(parsed.Headers) != 1 || parsed.Headers[0].KeyID != b.issuer.public.KeyID {
		return nil, false, errors.New("invalid signature, no keys found")
	}
	var public jwt.Claims
	var private privateClaims
	if err := parsed.Claims(b.issuer.public.Key, &public, &private); err != nil {
		return nil, false, err
	}
	if public.Issuer != b.issuer.name {
		return nil, false, fmt.Errorf("token issuer %q is invalid", public.Issuer)
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		wanted = b.issuer.audiences
	}
	audiences := authenticator.Audiences(public.Audience).Intersect(wanted)
	if len(audiences) == 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", public.Audience, wanted)
	}
	now := b.issuer.now()
	if err := validAt(public, now); err != nil {
		return nil, false, err
	}
	info, err := b.identify(ctx, private.Kubernetes, now)
	if err != nil {
		return nil, false, err
	}
	info.CredentialID = authenticationjwt.CredentialIDForJTI(public.ID)
	return &authenticator.Response{User: info.UserInfo(), Audiences: audiences}, true, nil
}

// claimedIssuer reads the issuer of a token that is not verified yet; it returns "" for what is no token at all.
func claimedIssuer(data string) string {
	parts := strings.Split(data, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.Issuer
}

// validAt checks the times of a token.
func validAt(claims jwt.Claims, now time.Time) error {
	// Every token of the issuer ends; the library takes one without an end for an eternal one.
	if claims.Expiry == nil {
		return errors.New("service account token has expired")
	}
	err := claims.Validate(jwt.Expected{Time: now})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrExpired):
		return errors.New("service account token has expired")
	case errors.Is(err, jwt.ErrNotValidYet):
		return errors.New("service account token is not valid yet")
	case errors.Is(err, jwt.ErrIssuedInTheFuture):
		return errors.New("service account token is issued in the future")
	}
	return fmt.Errorf("service account token claims could not be validated: %w", err)
}

// identify checks that everything the token names still exists.
func (b *bearer) identify(ctx context.Context, claims kubernetesClaims, now time.Time) (*serviceaccount.ServiceAccountInfo, error) {
	account, ref := claims.ServiceAccount, claims.ServiceAccount.UID
	// A deletion is known a little later than it happened, by clocks that differ a little.
	deadline := now.Add(-jwt.DefaultLeeway)
	sa, err := find[*corev1.ServiceAccount](ctx, b.objects.ServiceAccounts, claims.Namespace, account.Name, types.UID(ref))
	if err != nil {
		return nil, err
	}
	if string(sa.UID) != ref {
		return nil, fmt.Errorf("service account UID (%s) does not match claim (%s)", sa.UID, ref)
	}
	if deletedBefore(sa, deadline) {
		return nil, fmt.Errorf("service account %s/%s has been deleted", claims.Namespace, account.Name)
	}
	info := &serviceaccount.ServiceAccountInfo{Namespace: claims.Namespace, Name: account.Name, UID: ref}
	if r := claims.Secret; r != nil {
		if err := exists[*corev1.Secret](ctx, b.objects.Secrets, claims.Namespace, "secret", *r, deadline); err != nil {
			return nil, err
		}
	}
	if r := claims.Pod; r != nil {
		if err := exists[*corev1.Pod](ctx, b.objects.Pods, claims.Namespace, "pod", *r, deadline); err != nil {
			return nil, err
		}
		info.PodName, info.PodUID = r.Name, r.UID
	}
	if r := claims.Node; r != nil {
		// The node in a pod's token only says where the pod runs; the pod ends with its node anyway.
		if claims.Pod == nil {
			if err := exists[*corev1.Node](ctx, b.objects.Nodes, metav1.NamespaceNone, "node", *r, deadline); err != nil {
				return nil, err
			}
		}
		info.NodeName, info.NodeUID = r.Name, r.UID
	}
	return info, nil
}

// exists checks that the object a token is bound to is still the one it was.
func exists[T object](ctx context.Context, store rest.Getter, namespace, kind string, ref reference, deadline time.Time) error {
	obj, err := find[T](ctx, store, namespace, ref.Name, types.UID(ref.UID))
	if err != nil {
		return errInvalidated
	}
	if string(obj.GetUID()) != ref.UID {
		return fmt.Errorf("%s UID (%s) does not match service account %s ref claim (%s)", kind, obj.GetUID(), kind, ref.UID)
	}
	if deletedBefore(obj, deadline) {
		return errInvalidated
	}
	return nil
}

func deletedBefore(obj metav1.Object, t time.Time) bool {
	at := obj.GetDeletionTimestamp()
	return at != nil && at.Time.Before(t)
}
