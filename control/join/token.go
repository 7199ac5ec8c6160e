package join

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// The keys of a token's Secret, as upstream has them.
const (
	SecretType     = corev1.SecretType("bootstrap.kubernetes.io/token")
	secretPrefix   = "bootstrap-token-"
	keyID          = "token-id"
	keySecret      = "token-secret"
	keyExpiration  = "expiration"
	keyUsage       = "usage-bootstrap-authentication"
	keyGroups      = "auth-extra-groups"
	keyDescription = "description"
	alphabet       = "abcdefghijklmnopqrstuvwxyz0123456789"
)

var tokenPattern = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

// Token is a bootstrap token.
type Token struct {
	ID, Secret string
	// Expires is the end of the token; zero means that it has none.
	Expires     time.Time
	Description string
}

// String is the token as a node shows it.
func (t Token) String() string { return t.ID + "." + t.Secret }

// SecretName is the name of the token's Secret in kube-system.
func SecretName(id string) string { return secretPrefix + id }

// NewToken makes a token that ends after ttl, or never if ttl is 0.
func NewToken(ttl time.Duration, description string) Token {
	t := Token{ID: random(6), Secret: random(16), Description: description}
	if ttl > 0 {
		t.Expires = time.Now().Add(ttl)
	}
	return t
}

// random returns n letters. 252 is the largest multiple of 36 that a byte can hold: what is above would make some letters likelier.
func random(n int) string {
	var out strings.Builder
	for one := []byte{0}; out.Len() < n; {
		_, _ = rand.Read(one) // documented never to fail
		if one[0] < 252 {
			out.WriteByte(alphabet[int(one[0])%len(alphabet)])
		}
	}
	return out.String()
}

// ParseToken reads what String wrote.
func ParseToken(s string) (Token, error) {
	m := tokenPattern.FindStringSubmatch(s)
	if m == nil {
		return Token{}, errors.New(`a token looks like "abcdef.0123456789abcdef"; make one with "skep token create" on the server`)
	}
	return Token{ID: m[1], Secret: m[2]}, nil
}

// Object is the Secret that makes the token valid.
func (t Token) Object() *corev1.Secret {
	data := map[string][]byte{keyID: []byte(t.ID), keySecret: []byte(t.Secret), keyUsage: []byte("true")}
	if !t.Expires.IsZero() {
		data[keyExpiration] = []byte(t.Expires.UTC().Format(time.RFC3339))
	}
	if t.Description != "" {
		data[keyDescription] = []byte(t.Description)
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: SecretName(t.ID)}, Type: SecretType, Data: data}
}

// FromObject reads a token's Secret.
func FromObject(s *corev1.Secret) (Token, error) {
	t := Token{ID: string(s.Data[keyID]), Secret: string(s.Data[keySecret]), Description: string(s.Data[keyDescription])}
	if s.Type != SecretType || s.Name != SecretName(t.ID) || !tokenPattern.MatchString(t.String()) {
		return Token{}, fmt.Errorf("secret %s is no bootstrap token", s.Name)
	}
	if end := string(s.Data[keyExpiration]); end != "" {
		var err error
		if t.Expires, err = time.Parse(time.RFC3339, end); err != nil {
			return Token{}, fmt.Errorf("secret %s: %w", s.Name, err)
		}
	}
	return t, nil
}

// Expired says whether the token has ended.
func (t Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// Authenticator knows the bearers of bootstrap tokens by the Secrets in kube-system. Other tokens it leaves to others.
func Authenticator(secrets rest.Getter) authenticator.Token {
	return authenticator.TokenFunc(func(ctx context.Context, shown string) (*authenticator.Response, bool, error) {
		token, err := ParseToken(shown)
		if err != nil {
			return nil, false, nil
		}
		obj, err := secrets.Get(genericapirequest.WithNamespace(ctx, metav1.NamespaceSystem), SecretName(token.ID), &metav1.GetOptions{})
		if err != nil {
			return nil, false, nil // to a stranger, missing and wrong are the same
		}
		secret, ok := obj.(*corev1.Secret)
		if !ok {
			return nil, false, nil
		}
		return identify(secret, token, time.Now())
	})
}

func identify(secret *corev1.Secret, shown Token, now time.Time) (*authenticator.Response, bool, error) {
	have, err := FromObject(secret)
	if err != nil || secret.DeletionTimestamp != nil || have.Expired(now) || string(secret.Data[keyUsage]) != "true" ||
		subtle.ConstantTimeCompare([]byte(have.Secret), []byte(shown.Secret)) != 1 {
		return nil, false, nil
	}
	groups := []string{BootstrapGroup}
	for _, g := range strings.Split(string(secret.Data[keyGroups]), ",") {
		if strings.HasPrefix(g, BootstrapGroup+":") {
			groups = append(groups, g)
		}
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: "system:bootstrap:" + have.ID, Groups: groups}}, true, nil
}
