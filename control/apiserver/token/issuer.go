// Package token issues the bound tokens of ServiceAccounts and tells who bears one. A token names the ServiceAccount, and the pod,
// Secret or node that it is bound to, each by UID: it dies with any of them.
package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	jose "gopkg.in/go-jose/go-jose.v2"
	"gopkg.in/go-jose/go-jose.v2/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/client-go/util/keyutil"
)

const (
	// DefaultLife is what a token lives if the request names no time, in seconds; MinLife and MaxLife bound what it may name.
	DefaultLife = 60 * 60
	MinLife     = 10 * 60
	MaxLife     = 1 << 32

	// ProjectedLife is the life, in seconds, that the projected volume of a pod asks for. Clients that read the token once and
	// never again are common, so a token of exactly this life works for extendedLife as long as its pod exists, and says in
	// "warnafter" when it should have been replaced.
	ProjectedLife = 60*60 + 7
	extendedLife  = 365 * 24 * 60 * 60
)

// Issuer signs tokens with one key and verifies them. It is safe for concurrent use.
type Issuer struct {
	name      string
	audiences authenticator.Audiences
	public    jose.JSONWebKey
	signer    jose.Signer
	now       func() time.Time
}

// New returns the issuer called name, usually the URL under which the cluster knows its API server. keyPEM is an ECDSA key on P-256.
// apiAudiences are the audiences of tokens for the API server itself: a token that asks for none is for them.
func New(keyPEM []byte, name string, apiAudiences []string) (*Issuer, error) {
	parsed, err := keyutil.ParsePrivateKeyPEM(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("key of token issuer %s: %w", name, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("key of token issuer %s: not an ECDSA key on P-256", name)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("key of token issuer %s: %w", name, err)
	}
	digest := sha256.Sum256(der)
	web := jose.JSONWebKey{Key: key, KeyID: base64.RawURLEncoding.EncodeToString(digest[:]), Algorithm: string(jose.ES256), Use: "sig"}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: web}, nil)
	if err != nil {
		return nil, fmt.Errorf("key of token issuer %s: %w", name, err)
	}
	return &Issuer{name: name, audiences: apiAudiences, public: web.Public(), signer: signer, now: time.Now}, nil
}

// Audiences are those of the API server.
func (i *Issuer) Audiences() authenticator.Audiences { return slices.Clone(i.audiences) }

// Bound is what a token dies with besides its ServiceAccount: nothing, a pod (with the node it runs on, if known), a Secret, or a
// node. A node without a UID is named in the token of a pod but binds nothing.
type Bound struct {
	Pod    *corev1.Pod
	Secret *corev1.Secret
	Node   *corev1.Node
}

// Issue signs a token of sa for the audiences and the life that the request names, or the defaults. It returns when the bearer
// should have replaced it. The request must be valid, and what is bound must belong to sa: NewREST checks both.
func (i *Issuer) Issue(sa *corev1.ServiceAccount, req *authenticationv1.TokenRequestSpec, bound Bound) (string, time.Time, error) {
	if bound.Secret != nil && (bound.Pod != nil || bound.Node != nil) {
		return "", time.Time{}, errors.New("a token is bound to one object")
	}
	audiences := authenticator.Audiences(req.Audiences)
	if len(audiences) == 0 {
		audiences = i.audiences
	}
	life := int64(DefaultLife)
	if req.ExpirationSeconds != nil {
		life = *req.ExpirationSeconds
	}
	now := i.now()
	after := func(seconds int64) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	private := privateClaims{kubernetesClaims{
		Namespace: sa.Namespace, ServiceAccount: *referTo(sa),
		Pod: referTo(bound.Pod), Secret: referTo(bound.Secret), Node: referTo(bound.Node),
	}}
	end := life
	if bound.Pod != nil && life == ProjectedLife && i.onlyOwn(audiences) {
		end = extendedLife
		private.Kubernetes.WarnAfter = jwt.NewNumericDate(after(life))
	}
	signed, err := jwt.Signed(i.signer).Claims(private).Claims(jwt.Claims{
		ID: uuid.NewString(), Issuer: i.name, Subject: serviceaccount.MakeUsername(sa.Namespace, sa.Name), Audience: jwt.Audience(audiences),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(after(end)),
	}).CompactSerialize()
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign token of service account %s/%s: %w", sa.Namespace, sa.Name, err)
	}
	return signed, after(life), nil
}

// onlyOwn says whether the audiences are all the API server's.
func (i *Issuer) onlyOwn(audiences authenticator.Audiences) bool {
	return len(i.audiences.Intersect(audiences)) == len(audiences)
}

// privateClaims are Kubernetes' own part of a token.
type privateClaims struct {
	Kubernetes kubernetesClaims `json:"kubernetes.io"`
}

type kubernetesClaims struct {
	Namespace      string           `json:"namespace,omitempty"`
	ServiceAccount reference        `json:"serviceaccount"`
	Pod            *reference       `json:"pod,omitempty"`
	Secret         *reference       `json:"secret,omitempty"`
	Node           *reference       `json:"node,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

// reference names one object and no later one of that name.
type reference struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// referTo returns nil for a nil object.
func referTo[T any, P interface {
	*T
	metav1.Object
}](obj P) *reference {
	if obj == nil {
		return nil
	}
	return &reference{Name: obj.GetName(), UID: string(obj.GetUID())}
}
