package apiserver_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// as is a client of the cluster with other credentials than the administrator's.
func (c *cluster) as(t *testing.T, credentials func(*rest.Config)) kubernetes.Interface {
	t.Helper()
	config := &rest.Config{Host: c.config.Host, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: c.keys.CA.Cert}}
	credentials(config)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// node is the client of a node's agent.
func (c *cluster) node(t *testing.T, name string) kubernetes.Interface {
	t.Helper()
	keys, err := c.keys.EnsureNode(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.as(t, func(config *rest.Config) { config.CertData, config.KeyData = keys.Client.Cert, keys.Client.Key })
}

// status asks for a path and returns the code and the body.
func (c *cluster) status(t *testing.T, path string, credentials func(*rest.Config)) (int, string) {
	t.Helper()
	config := &rest.Config{Host: c.config.Host, TLSClientConfig: rest.TLSClientConfig{CAData: c.keys.CA.Cert}}
	credentials(config)
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Get("https://" + config.Host + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func nobody(*rest.Config) {}

// accountToken makes the account "robot" and asks for a token of it.
func (c *cluster) accountToken(t *testing.T) string {
	t.Helper()
	accounts := c.client.CoreV1().ServiceAccounts("default")
	if _, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	request, err := accounts.CreateToken(t.Context(), "robot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}

func TestPathsWithoutLogin(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	// Who is known may look around as soon as the server is ready.
	user := func(config *rest.Config) { config.BearerToken = c.accountToken(t) }
	if code, body := c.status(t, "/apis", user); code != http.StatusOK {
		t.Errorf("/apis with a token: %d %s", code, body)
	}
	for path, want := range map[string]int{
		"/readyz": http.StatusOK, "/livez": http.StatusOK, "/healthz": http.StatusOK, "/version": http.StatusOK, "/livez/ping": http.StatusOK,
		"/readyz/poststarthook/bootstrap": http.StatusOK,
		"/api":                            http.StatusUnauthorized, "/apis": http.StatusUnauthorized, "/metrics": http.StatusUnauthorized, "/readyzz": http.StatusUnauthorized,
		"/api/v1/namespaces/default/pods": http.StatusUnauthorized, "/openid/v1/jwks": http.StatusUnauthorized, "/readyz/../api": http.StatusUnauthorized,
	} {
		if code, body := c.status(t, path, nobody); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
	if code, _ := c.status(t, "/readyz", func(config *rest.Config) { config.BearerToken = "false" }); code != http.StatusUnauthorized {
		t.Errorf("a false token is taken: %d", code)
	}
}

func TestAccountToken(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	bearer := c.accountToken(t)
	robot := c.as(t, func(config *rest.Config) { config.BearerToken = bearer })
	self, err := robot.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || self.Status.UserInfo.Username != "system:serviceaccount:default:robot" {
		t.Fatalf("%+v, %v", self, err)
	}
	list := func() error {
		_, err := robot.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		return err
	}
	wantError(t, list(), metav1.StatusReasonForbidden, `pods is forbidden: User "system:serviceaccount:default:robot" cannot list resource "pods" in API group "" in the namespace "default"`)

	roles := c.client.RbacV1()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"pods"}},
		{Verbs: []string{"create"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles", "rolebindings"}}}}
	if _, err := roles.Roles("default").Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := roles.RoleBindings("default").Create(t.Context(), bindingTo("Role", "reader"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) { return list() == nil, nil }); err != nil {
		t.Fatalf("still refused: %v", list())
	}

	// The account now makes roles, but none that is more than its own.
	more := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}}}}
	_, err = robot.RbacV1().Roles("default").Create(t.Context(), more, metav1.CreateOptions{})
	wantError(t, err, metav1.StatusReasonForbidden, "is attempting to grant RBAC permissions not currently held:\n"+`{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`)
	_, err = robot.RbacV1().RoleBindings("default").Create(t.Context(), bindingTo("ClusterRole", "cluster-admin"), metav1.CreateOptions{})
	wantError(t, err, metav1.StatusReasonForbidden, "is attempting to grant RBAC permissions not currently held:")
	more.Rules = []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"pods"}}}
	if _, err := robot.RbacV1().Roles("default").Create(t.Context(), more, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
}

// The role admin has the rules of edit, which has those of view, which lets read pods.
func TestRolesGatherTheirParts(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	bearer := c.accountToken(t)
	robot := c.as(t, func(config *rest.Config) { config.BearerToken = bearer })
	if _, err := c.client.RbacV1().RoleBindings("default").Create(t.Context(), bindingTo("ClusterRole", "admin"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		_, err := robot.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		return err == nil, nil
	})
	if err != nil {
		t.Error(err)
	}
}

// bindingTo binds a role to the account of accountToken.
func bindingTo(kind, role string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "robot-" + role}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: "robot"}}}
}

// Who verifies tokens outside the server finds its keys with a token of the cluster.
func TestTokenDiscovery(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	bearer := c.accountToken(t)
	credentials := func(config *rest.Config) { config.BearerToken = bearer }
	code, body := c.status(t, "/.well-known/openid-configuration", credentials)
	var document struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal([]byte(body), &document); code != http.StatusOK || err != nil {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	if document.Issuer != "https://kubernetes.default.svc.cluster.local" || !strings.HasSuffix(document.Keys, "/openid/v1/jwks") {
		t.Errorf("%+v", document)
	}
	if code, body := c.status(t, "/openid/v1/jwks", credentials); code != http.StatusOK || !strings.Contains(body, `"kid"`) {
		t.Errorf("%d %s", code, body)
	}
}

// newNode registers a node as its agent does and runs a pod there that uses a Secret.
func (c *cluster) newNode(t *testing.T, name, secret string) (kubernetes.Interface, *corev1.Pod) {
	t.Helper()
	agent := c.node(t, name)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	if _, err := agent.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secret}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := c.client.CoreV1().ServiceAccounts("default").Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod-" + name}, Spec: corev1.PodSpec{NodeName: name, ServiceAccountName: name,
		Containers: []corev1.Container{{Name: "c", Image: "image"}},
		Volumes:    []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}}}}
	pod, err := c.client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return agent, pod
}

func TestNodeIdentity(t *testing.T) {
	c, _ := start(t, t.TempDir(), 1)
	ctx := t.Context()
	agent, own := c.newNode(t, "n1", "mine")
	_, other := c.newNode(t, "n2", "theirs")
	if _, err := agent.CoreV1().Secrets("default").Get(ctx, "mine", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	_, err := agent.CoreV1().Secrets("default").Get(ctx, "theirs", metav1.GetOptions{})
	wantError(t, err, metav1.StatusReasonForbidden, "no relationship found between node 'n1' and this object")
	_, err = agent.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
	wantError(t, err, metav1.StatusReasonForbidden, "cannot list resource \"secrets\"")
	list, err := agent.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	// Its network has to know the pods of all nodes.
	list, err = agent.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	wantError(t, agent.CoreV1().Pods("default").Delete(ctx, other.Name, metav1.DeleteOptions{}), metav1.StatusReasonForbidden,
		"no relationship found between node 'n1' and this object")

	token := func(account string, pod *corev1.Pod) error {
		request := &authenticationv1.TokenRequest{}
		if pod != nil {
			request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
		}
		_, err := agent.CoreV1().ServiceAccounts("default").CreateToken(ctx, account, request, metav1.CreateOptions{})
		return err
	}
	if err := token("n1", own); err != nil {
		t.Error(err)
	}
	wantError(t, token("n1", nil), metav1.StatusReasonForbidden, "node requested token not bound to a pod")
	wantError(t, token("n1", other), metav1.StatusReasonForbidden, "node requested token bound to a pod scheduled on a different node")
	wantError(t, token("n2", other), metav1.StatusReasonForbidden, "no relationship found between node 'n1' and this object")

	patch := []byte(`{"metadata":{"labels":{"node-restriction.kubernetes.io/tier":"secure"}}}`)
	_, err = agent.CoreV1().Nodes().Patch(ctx, "n1", "application/merge-patch+json", patch, metav1.PatchOptions{})
	wantError(t, err, metav1.StatusReasonForbidden, "is not allowed to modify labels: node-restriction.kubernetes.io/tier")
}
