package admission

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skep-io/skep/control/apiserver/authorization"
)

func rules(verbs []string, group, resource string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
}

func role(name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Rules: rules}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

// bind binds a role of the namespace to a user.
func bind(name, kind, role, to string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: to}}}
}

// newEscalation is the plugin in a cluster where ann reads pods, eve may escalate role "r" and bind cluster role "big", and root
// holds everything.
func newEscalation(t *testing.T) escalation {
	t.Helper()
	const group = rbacv1.GroupName
	client := fake.NewClientset(
		role("reader", rules([]string{"get", "list"}, "", "pods")), bind("ann", "Role", "reader", "ann"),
		role("grower", rules([]string{"escalate"}, group, "roles", "r"), rules([]string{"bind"}, group, "clusterroles", "big")), bind("eve", "Role", "grower", "eve"),
		clusterRole("big", rules([]string{"*"}, "*", "*")), clusterRole("all", everything...),
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "root"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "all"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "root"}}},
	)
	factory := informers.NewSharedInformerFactory(client, 0)
	authority, held, err := authorization.New(factory, func(context.Context, string, string, bool) ([]corev1.Pod, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	factory.StartWithContext(t.Context())
	factory.WaitForCacheSync(t.Context().Done())
	return escalation{client, authority, held}
}

func TestNobodyGrantsWhatHeDoesNotHold(t *testing.T) {
	p := newEscalation(t)
	reads := rules([]string{"get"}, "", "pods")
	secrets := rules([]string{"get", "list"}, "", "secrets")
	gathers := clusterRole("g")
	gathers.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}
	owned := role("o", secrets)
	owned.OwnerReferences = []metav1.OwnerReference{{Name: "gone"}}
	denied := func(resource, name, who, groups, what string) string {
		return resource + `.rbac.authorization.k8s.io "` + name + `" is forbidden: user "` + who + `" (groups=[` + groups + `]) is attempting to grant RBAC permissions not currently held:` + "\n" + what
	}
	missing := `{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}`
	for name, c := range map[string]struct {
		resource string
		obj, old runtime.Object
		who      string
		groups   []string
		want     string
	}{
		"what one holds":            {"roles", role("r", reads), nil, "ann", nil, ""},
		"more":                      {"roles", role("r", reads, secrets), nil, "ann", []string{"g"}, denied("roles", "r", "ann", `"g"`, missing)},
		"more by update":            {"roles", role("r", secrets), role("r", reads), "ann", nil, denied("roles", "r", "ann", "", missing)},
		"more for the cluster":      {"clusterroles", clusterRole("r", secrets), nil, "ann", nil, denied("clusterroles", "r", "ann", "", missing)},
		"a path":                    {"clusterroles", clusterRole("r", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}}), nil, "ann", nil, denied("clusterroles", "r", "ann", "", `{NonResourceURLs:["/metrics"], Verbs:["get"]}`)},
		"an owner is dropped":       {"roles", role("o", secrets), owned, "ann", nil, ""},
		"escalate":                  {"roles", role("r", secrets), role("r"), "eve", nil, ""},
		"escalate another":          {"roles", role("s", secrets), role("s"), "eve", nil, denied("roles", "s", "eve", "", missing)},
		"escalate a new":            {"roles", role("r", secrets), nil, "eve", nil, denied("roles", "r", "eve", "", missing)},
		"gather":                    {"clusterroles", gathers, nil, "ann", nil, `clusterroles.rbac.authorization.k8s.io "g" is forbidden: must have cluster-admin privileges to use the aggregationRule`},
		"gather by who holds all":   {"clusterroles", gathers, nil, "root", nil, ""},
		"master":                    {"roles", role("r", secrets), nil, "x", []string{"system:masters"}, ""},
		"bind what one holds":       {"rolebindings", bind("b", "Role", "reader", "bob"), nil, "ann", nil, ""},
		"bind more":                 {"rolebindings", bind("b", "ClusterRole", "big", "ann"), nil, "ann", nil, denied("rolebindings", "b", "ann", "", `{APIGroups:["*"], Resources:["*"], Verbs:["*"]}`)},
		"bind what is not there":    {"rolebindings", bind("b", "Role", "gone", "ann"), nil, "ann", nil, `roles.rbac.authorization.k8s.io "gone" not found`},
		"bind with leave":           {"rolebindings", bind("b", "ClusterRole", "big", "eve"), nil, "eve", nil, ""},
		"bind another":              {"rolebindings", bind("b", "Role", "reader", "eve"), nil, "eve", nil, denied("rolebindings", "b", "eve", "", `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`)},
		"bind in the whole cluster": {"clusterrolebindings", clusterBinding("b", "big"), nil, "eve", nil, denied("clusterrolebindings", "b", "eve", "", `{APIGroups:["*"], Resources:["*"], Verbs:["*"]}`)},
	} {
		op, namespace, info := admission.Create, "", &genericapirequest.RequestInfo{}
		m := c.obj.(metav1.Object)
		if c.old != nil {
			op, info.Name = admission.Update, m.GetName()
		}
		if c.resource == "roles" || c.resource == "rolebindings" {
			namespace = "ns"
		}
		a := admission.NewAttributesRecord(c.obj, c.old, schema.GroupVersionKind{}, namespace, m.GetName(), rbacv1.SchemeGroupVersion.WithResource(c.resource), "", op, nil, false,
			&user.DefaultInfo{Name: c.who, Groups: c.groups})
		if got := text(p.Validate(genericapirequest.WithRequestInfo(t.Context(), info), a, nil)); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

func clusterBinding(name, role string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}}
}
