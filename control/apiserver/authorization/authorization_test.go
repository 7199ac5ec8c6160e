package authorization

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skep-io/skep/control/apiserver/authorization/policy"
)

func objects() []runtime.Object {
	all := []runtime.Object{
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "reader"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods", "pods/log"}},
			{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"one"}}}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "reader"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "sa"}, {Kind: "User", Name: "ann"}}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "dangling"}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "gone"},
			Subjects: []rbacv1.Subject{{Kind: "User", Name: "ann"}}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "view"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "system:aggregate-to-view"},
			Subjects: []rbacv1.Subject{{Kind: "Group", Name: "viewers"}}},
	}
	for _, r := range policy.ClusterRoles() {
		all = append(all, r)
	}
	for _, b := range policy.ClusterRoleBindings() {
		all = append(all, b)
	}
	return all
}

// podsOf gives node n1 one pod that refers to secrets, a config map and an account, and another that only a fresh list shows.
func podsOf(_ context.Context, _, node string, fresh bool) ([]corev1.Pod, error) {
	if node != "n1" {
		return nil, nil
	}
	ephemeral := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{
		SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s3"}}}}}}}
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p1"}, Spec: corev1.PodSpec{ServiceAccountName: "sa", NodeName: "n1",
		Containers:          []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s1"}}}}}},
		EphemeralContainers: []corev1.EphemeralContainer{ephemeral},
		Volumes:             []corev1.Volume{{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c1"}}}}}}}
	if !fresh {
		return []corev1.Pod{p}, nil
	}
	young := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "young"}, Spec: corev1.PodSpec{NodeName: "n1"}}
	return []corev1.Pod{p, young}, nil
}

func TestAuthorize(t *testing.T) {
	factory := informers.NewSharedInformerFactory(fake.NewClientset(objects()...), 0)
	a, _, err := New(factory, podsOf)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())

	someone := func(name string, groups ...string) user.Info {
		return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
	}
	node := someone("system:node:n1", "system:nodes")
	account := serviceaccount.UserInfo("ns", "sa", "")
	get := func(resource, name string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: "get", Namespace: "ns", Resource: resource, Name: name, ResourceRequest: true, APIVersion: "v1"}
	}
	list := func(resource, field string) authorizer.AttributesRecord {
		r := get(resource, "")
		r.Verb, r.Namespace = "list", ""
		if field != "" {
			r.FieldSelectorRequirements = fields.ParseSelectorOrDie(field).Requirements()
		}
		return r
	}
	url := func(path string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: "get", Path: path}
	}
	log := get("pods", "p1")
	log.Subresource = "log"
	for name, c := range map[string]struct {
		who     user.Info
		what    authorizer.AttributesRecord
		allowed bool
	}{
		"master":                       {someone("root", "system:masters"), get("secrets", "x"), true},
		"nobody":                       {someone("eve"), get("pods", "p1"), false},
		"discovery":                    {someone("eve"), url("/apis/apps/v1"), true},
		"metrics":                      {someone("eve"), url("/metrics"), false},
		"readyz without login":         {&user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}, url("/readyz"), true},
		"one check without login":      {&user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}, url("/livez/etcd"), true},
		"apis without login":           {&user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}, url("/apis"), false},
		"bound user, dangling binding": {someone("ann"), get("pods", "p1"), true},
		"bound account":                {account, log, true},
		"not that verb":                {account, list("pods", ""), false},
		"named object":                 {account, get("configmaps", "one"), true},
		"other object":                 {account, get("configmaps", "two"), false},
		"cluster role in a namespace":  {someone("v", "viewers"), get("services", "s"), true},
		"view shows no secrets":        {someone("v", "viewers"), get("secrets", "s"), false},
		"node, its pod's secret":       {node, get("secrets", "s1"), true},
		"node, another secret":         {node, get("secrets", "s2"), false},
		"node, its pod's config map":   {node, get("configmaps", "c1"), true},
		"node, all secrets":            {node, list("secrets", ""), false},
		"node, its pods":               {node, list("pods", "spec.nodeName=n1"), true},
		// Network policies are about the pods of all nodes.
		"node, other node's pods":  {node, list("pods", "spec.nodeName=n2"), true},
		"node, all but its pods":   {node, list("pods", "spec.nodeName!=n1"), true},
		"node, its new pod":        {node, get("pods", "young"), true},
		"node, ephemeral's secret": {node, get("secrets", "s3"), true},
		"node, all pods":           {node, list("pods", ""), true},
		"node, its pod":            {node, get("pods", "p1"), true},
		"node, another pod":        {node, get("pods", "p2"), false},
		"node, services":           {node, list("services", ""), true},
		"node's DNS configuration": {node, authorizer.AttributesRecord{Verb: "watch", Namespace: "kube-system", Resource: "configmaps", Name: "skep-dns", ResourceRequest: true, APIVersion: "v1"}, true},
		"node without the group":   {someone("system:node:n1"), list("services", ""), false},
	} {
		r := c.what
		r.User = c.who
		if decision, reason, err := a.Authorize(t.Context(), r); (decision == authorizer.DecisionAllow) != c.allowed {
			t.Errorf("%s: %v %q %v", name, decision, reason, err)
		}
	}
}
