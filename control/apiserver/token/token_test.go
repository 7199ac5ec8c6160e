package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"gopkg.in/go-jose/go-jose.v2/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/util/keyutil"
)

const (
	server = "https://kubernetes.default.svc.cluster.local"
	ns     = "web"
)

// store is a rest.Getter over a map of namespace/name.
type store map[string]runtime.Object

func (s store) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if obj, ok := s[genericapirequest.NamespaceValue(ctx)+"/"+name]; ok {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "things"}, name)
}

func meta(namespace, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}
}

// world returns objects that belong together.
func world() Objects {
	return Objects{
		ServiceAccounts: store{ns + "/robot": &corev1.ServiceAccount{ObjectMeta: meta(ns, "robot", "sa-1")}},
		Pods: store{
			ns + "/pod":   &corev1.Pod{ObjectMeta: meta(ns, "pod", "pod-1"), Spec: corev1.PodSpec{ServiceAccountName: "robot", NodeName: "n1"}},
			ns + "/other": &corev1.Pod{ObjectMeta: meta(ns, "other", "pod-2"), Spec: corev1.PodSpec{ServiceAccountName: "someone"}},
			ns + "/lost":  &corev1.Pod{ObjectMeta: meta(ns, "lost", "pod-3"), Spec: corev1.PodSpec{ServiceAccountName: "robot", NodeName: "gone"}},
		},
		Secrets: store{ns + "/secret": &corev1.Secret{ObjectMeta: meta(ns, "secret", "secret-1")}},
		Nodes:   store{"/n1": &corev1.Node{ObjectMeta: meta("", "n1", "node-1")}},
	}
}

func newIssuer(t *testing.T) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	i, err := New(pem, server, []string{server})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func inNamespace() context.Context {
	return genericapirequest.WithNamespace(context.Background(), ns)
}

// request asks for a token of web/robot.
func request(t *testing.T, i *Issuer, objects Objects, spec authenticationv1.TokenRequestSpec) *authenticationv1.TokenRequest {
	t.Helper()
	out, err := NewREST(i, objects).Create(inNamespace(), "robot", &authenticationv1.TokenRequest{Spec: spec}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out.(*authenticationv1.TokenRequest)
}

func boundTo(kind, name string) authenticationv1.TokenRequestSpec {
	return authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name}}
}

func seconds(n int64) *int64 { return &n }

func TestUserOfToken(t *testing.T) {
	tests := []struct {
		name  string
		spec  authenticationv1.TokenRequestSpec
		extra map[string]string
	}{
		{"unbound", authenticationv1.TokenRequestSpec{}, map[string]string{}},
		{"pod", boundTo("Pod", "pod"), map[string]string{"pod-name": "pod", "pod-uid": "pod-1", "node-name": "n1", "node-uid": "node-1"}},
		{"pod of a node that is gone", boundTo("Pod", "lost"), map[string]string{"pod-name": "lost", "pod-uid": "pod-3", "node-name": "gone"}},
		{"secret", boundTo("Secret", "secret"), map[string]string{}},
		{"node", boundTo("Node", "n1"), map[string]string{"node-name": "n1", "node-uid": "node-1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			i, objects := newIssuer(t), world()
			issued := request(t, i, objects, test.spec)
			resp, ok, err := i.Authenticator(objects).AuthenticateToken(context.Background(), issued.Status.Token)
			if err != nil || !ok {
				t.Fatalf("not accepted: %v", err)
			}
			if got := resp.User.GetName(); got != "system:serviceaccount:web:robot" {
				t.Errorf("user %s", got)
			}
			if got := resp.User.GetGroups(); !reflect.DeepEqual(got, []string{"system:serviceaccounts", "system:serviceaccounts:web"}) {
				t.Errorf("groups %v", got)
			}
			want := map[string][]string{}
			for k, v := range test.extra {
				want["authentication.kubernetes.io/"+k] = []string{v}
			}
			extra := resp.User.GetExtra()
			if len(extra[user.CredentialIDKey]) != 1 {
				t.Errorf("no credential id in %v", extra)
			}
			delete(extra, user.CredentialIDKey)
			if !reflect.DeepEqual(extra, want) {
				t.Errorf("extra %v, want %v", extra, want)
			}
		})
	}
}

func TestTokenDiesWithItsObjects(t *testing.T) {
	long := metav1.NewTime(time.Now().Add(-time.Hour))
	tests := []struct {
		name string
		spec authenticationv1.TokenRequestSpec
		kill func(Objects)
		want string
	}{
		{"account replaced", authenticationv1.TokenRequestSpec{}, func(o Objects) {
			o.ServiceAccounts.(store)[ns+"/robot"] = &corev1.ServiceAccount{ObjectMeta: meta(ns, "robot", "sa-2")}
		}, "service account UID (sa-2) does not match claim (sa-1)"},
		{"account gone", authenticationv1.TokenRequestSpec{}, func(o Objects) { delete(o.ServiceAccounts.(store), ns+"/robot") }, `things "robot" not found`},
		{"pod gone", boundTo("Pod", "pod"), func(o Objects) { delete(o.Pods.(store), ns+"/pod") }, "service account token has been invalidated"},
		{"pod replaced", boundTo("Pod", "pod"), func(o Objects) {
			o.Pods.(store)[ns+"/pod"] = &corev1.Pod{ObjectMeta: meta(ns, "pod", "pod-9")}
		}, "pod UID (pod-9) does not match service account pod ref claim (pod-1)"},
		{"pod being deleted", boundTo("Pod", "pod"), func(o Objects) {
			o.Pods.(store)[ns+"/pod"].(*corev1.Pod).DeletionTimestamp = &long
		}, "service account token has been invalidated"},
		{"secret gone", boundTo("Secret", "secret"), func(o Objects) { delete(o.Secrets.(store), ns+"/secret") }, "service account token has been invalidated"},
		{"node gone", boundTo("Node", "n1"), func(o Objects) { delete(o.Nodes.(store), "/n1") }, "service account token has been invalidated"},
		{"node of a pod gone", boundTo("Pod", "pod"), func(o Objects) { delete(o.Nodes.(store), "/n1") }, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			i, objects := newIssuer(t), world()
			issued := request(t, i, objects, test.spec)
			test.kill(objects)
			_, ok, err := i.Authenticator(objects).AuthenticateToken(context.Background(), issued.Status.Token)
			if text := errorText(err); text != test.want || ok != (test.want == "") {
				t.Errorf("accepted %t, error %q, want %q", ok, text, test.want)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestTimes(t *testing.T) {
	tests := []struct {
		name  string
		spec  authenticationv1.TokenRequestSpec
		after time.Duration
		want  string
	}{
		{"within the default hour", authenticationv1.TokenRequestSpec{}, 59 * time.Minute, ""},
		{"after the default hour", authenticationv1.TokenRequestSpec{}, 62 * time.Minute, "service account token has expired"},
		{"before it was issued", authenticationv1.TokenRequestSpec{}, -2 * time.Minute, "service account token is not valid yet"},
		{"after what was asked for", authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(600)}, 12 * time.Minute, "service account token has expired"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			i, objects := newIssuer(t), world()
			issued := request(t, i, objects, test.spec)
			i.now = func() time.Time { return time.Now().Add(test.after) }
			_, _, err := i.Authenticator(objects).AuthenticateToken(context.Background(), issued.Status.Token)
			if text := errorText(err); text != test.want {
				t.Errorf("error %q, want %q", text, test.want)
			}
		})
	}
}

// A client that reads its projected token once keeps working; the answer still names the hour after which it should read again.
func TestProjectedTokenIsExtended(t *testing.T) {
	i, objects := newIssuer(t), world()
	spec := boundTo("Pod", "pod")
	spec.ExpirationSeconds = seconds(ProjectedLife)
	issued := request(t, i, objects, spec)
	if life := time.Until(issued.Status.ExpirationTimestamp.Time); life > (ProjectedLife+1)*time.Second {
		t.Errorf("the answer names a life of %s", life)
	}
	public, private := claims(t, issued.Status.Token)
	if life := public.Expiry.Time().Sub(public.IssuedAt.Time()); life != extendedLife*time.Second {
		t.Errorf("the token lives %s", life)
	}
	if warn := private.Kubernetes.WarnAfter; warn == nil || warn.Time().Sub(public.IssuedAt.Time()) != ProjectedLife*time.Second {
		t.Errorf("warnafter %v", warn)
	}
	spec.Audiences = []string{"vault"}
	if public, _ := claims(t, request(t, i, objects, spec).Status.Token); public.Expiry.Time().Sub(public.IssuedAt.Time()) != ProjectedLife*time.Second {
		t.Error("a token for another audience is extended")
	}
}

func claims(t *testing.T, signed string) (jwt.Claims, privateClaims) {
	t.Helper()
	parsed, err := jwt.ParseSigned(signed)
	if err != nil {
		t.Fatal(err)
	}
	var public jwt.Claims
	var private privateClaims
	if err := parsed.UnsafeClaimsWithoutVerification(&public, &private); err != nil {
		t.Fatal(err)
	}
	return public, private
}

func TestAudiences(t *testing.T) {
	i, objects := newIssuer(t), world()
	forVault := request(t, i, objects, authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}).Status.Token
	tokens := i.Authenticator(objects)
	_, _, err := tokens.AuthenticateToken(context.Background(), forVault)
	if want := `token audiences ["vault"] is invalid for the target audiences ["` + server + `"]`; errorText(err) != want {
		t.Errorf("error %q, want %q", errorText(err), want)
	}
	ctx := authenticator.WithAudiences(context.Background(), authenticator.Audiences{"vault", "other"})
	resp, ok, err := tokens.AuthenticateToken(ctx, forVault)
	if err != nil || !ok || !reflect.DeepEqual(resp.Audiences, authenticator.Audiences{"vault"}) {
		t.Errorf("accepted %t for %v: %v", ok, resp, err)
	}
}

func TestForeignTokens(t *testing.T) {
	i, objects := newIssuer(t), world()
	mine := request(t, i, objects, authenticationv1.TokenRequestSpec{}).Status.Token
	twin := newIssuer(t) // the same name, another key
	parts := strings.Split(mine, ".")
	unsigned := "eyJhbGciOiJub25lIn0." + parts[1] + "."
	swapped := parts[0] + "." + parts[1] + "." + strings.Split(request(t, twin, objects, authenticationv1.TokenRequestSpec{}).Status.Token, ".")[2]
	tests := []struct {
		name, token string
		refused     bool
	}{
		{"empty", "", false},
		{"opaque", "abc", false},
		{"dots", "a.b.c", false},
		{"another key", request(t, twin, objects, authenticationv1.TokenRequestSpec{}).Status.Token, true},
		{"another signature", swapped, true},
		{"no signature", unsigned, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, ok, err := i.Authenticator(objects).AuthenticateToken(context.Background(), test.token)
			if ok || (err != nil) != test.refused {
				t.Errorf("accepted %t, error %v", ok, err)
			}
		})
	}
}

func TestRefusedRequests(t *testing.T) {
	withUID := boundTo("Pod", "pod")
	withUID.BoundObjectRef.UID = "stale"
	tests := []struct {
		name string
		req  authenticationv1.TokenRequest
		want string
	}{
		{"too short", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(599)}},
			`TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes`},
		{"too long", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(1<<32 + 1)}},
			`TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds`},
		{"another name", authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Name: "x"}},
			`TokenRequest.authentication.k8s.io "robot" is invalid: metadata.name: Invalid value: "x": must match the service account name if specified`},
		{"another namespace", authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "x"}},
			`TokenRequest.authentication.k8s.io "robot" is invalid: metadata.namespace: Invalid value: "x": must match the service account namespace if specified`},
		{"another account of that name", authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{UID: "x"}},
			`Operation cannot be fulfilled on TokenRequest.authentication.k8s.io "robot": the UID in the token request (x) does not match the UID of the service account (sa-1)`},
		{"another account's pod", authenticationv1.TokenRequest{Spec: boundTo("Pod", "other")},
			`cannot bind token for serviceaccount "robot" to pod running with different serviceaccount name.`},
		{"another pod of that name", authenticationv1.TokenRequest{Spec: withUID},
			`Operation cannot be fulfilled on Pod "pod": the UID in the bound object reference (stale) does not match the UID in record. The object might have been deleted and then recreated`},
		{"a service", authenticationv1.TokenRequest{Spec: boundTo("Service", "s")}, "cannot bind token to object of type /v1, Kind=Service"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := NewREST(newIssuer(t), world()).Create(inNamespace(), "robot", &test.req, nil, nil)
			if errorText(err) != test.want {
				t.Errorf("error %q, want %q", errorText(err), test.want)
			}
		})
	}
}

func TestReview(t *testing.T) {
	i, objects := newIssuer(t), world()
	reviews := NewReviewREST(i.Authenticator(objects), i.Audiences())
	good := request(t, i, objects, authenticationv1.TokenRequestSpec{}).Status.Token
	foreign := request(t, i, objects, authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}).Status.Token
	review := func(spec authenticationv1.TokenReviewSpec) (authenticationv1.TokenReviewStatus, error) {
		out, err := reviews.Create(context.Background(), &authenticationv1.TokenReview{Spec: spec}, nil, nil)
		if err != nil {
			return authenticationv1.TokenReviewStatus{}, err
		}
		return out.(*authenticationv1.TokenReview).Status, nil
	}
	got, err := review(authenticationv1.TokenReviewSpec{Token: good})
	if err != nil || !got.Authenticated || got.User.UID != "sa-1" || !reflect.DeepEqual(got.Audiences, []string{server}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = review(authenticationv1.TokenReviewSpec{Token: foreign}); err != nil || got.Authenticated || got.Error == "" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = review(authenticationv1.TokenReviewSpec{Token: foreign, Audiences: []string{"vault"}}); err != nil || !got.Authenticated {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err = review(authenticationv1.TokenReviewSpec{}); !apierrors.IsBadRequest(err) {
		t.Errorf("error %v", err)
	}
}

func TestSelfReview(t *testing.T) {
	ctx := genericapirequest.WithUser(context.Background(), &user.DefaultInfo{Name: "ada", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}})
	out, err := NewSelfReviewREST().Create(ctx, &authenticationv1.SelfSubjectReview{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := authenticationv1.UserInfo{Username: "ada", Groups: []string{"g"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}}}
	if got := out.(*authenticationv1.SelfSubjectReview).Status.UserInfo; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// What discovery serves is enough to verify a token.
func TestDiscovery(t *testing.T) {
	i := newIssuer(t)
	handlers, err := i.Discovery("https://10.0.0.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string, into any) {
		w := httptest.NewRecorder()
		handlers[path].ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
	var configuration struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	read(ConfigurationPath, &configuration)
	if configuration.Issuer != server || configuration.Keys != "https://10.0.0.1:6443/openid/v1/jwks" {
		t.Errorf("%+v", configuration)
	}
	var keys struct {
		Keys []map[string]string `json:"keys"`
	}
	read(KeysPath, &keys)
	if len(keys.Keys) != 1 || keys.Keys[0]["kid"] != i.public.KeyID || keys.Keys[0]["d"] != "" {
		t.Errorf("keys %v", keys)
	}
}
