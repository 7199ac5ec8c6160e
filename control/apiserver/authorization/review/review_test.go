package review

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// annReads lets ann get pods in the namespace web, and nobody else anything.
func annReads(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetUser().GetName() == "ann" && a.GetVerb() == "get" && a.GetResource() == "pods" && a.GetNamespace() == "web" {
		return authorizer.DecisionAllow, "because", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// rules answers every user with one rule of each sort and an error.
type rules struct{}

func (rules) RulesFor(context.Context, user.Info, string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}, ResourceNames: []string{"p"}}},
		[]authorizer.NonResourceRuleInfo{&authorizer.DefaultNonResourceRuleInfo{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}},
		true, errors.New("half")
}

// ask sends a question as ann, within namespace if it has one.
func ask(t *testing.T, resource, namespace string, obj runtime.Object) (runtime.Object, error) {
	t.Helper()
	ctx := genericapirequest.WithUser(t.Context(), &user.DefaultInfo{Name: "ann"})
	if namespace != "" {
		ctx = genericapirequest.WithNamespace(ctx, namespace)
	}
	return Storages(authorizer.AuthorizerFunc(annReads), rules{})[resource].(rest.Creater).Create(ctx, obj, nil, nil)
}

func pods(namespace string) *authorizationv1.ResourceAttributes {
	return &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: namespace}
}

func TestAnswers(t *testing.T) {
	yes := authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "because"}
	no := authorizationv1.SubjectAccessReviewStatus{}
	of := func(who, namespace string) authorizationv1.SubjectAccessReviewSpec {
		return authorizationv1.SubjectAccessReviewSpec{User: who, ResourceAttributes: pods(namespace)}
	}
	broken := of("ann", "web")
	broken.ResourceAttributes.FieldSelector = &authorizationv1.FieldSelectorAttributes{RawSelector: "a=b=c,("}
	local := func(spec authorizationv1.SubjectAccessReviewSpec) *authorizationv1.LocalSubjectAccessReview {
		return &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: spec.ResourceAttributes.Namespace}, Spec: spec}
	}
	tests := []struct {
		name, resource, namespace string
		question                  runtime.Object
		want                      authorizationv1.SubjectAccessReviewStatus
	}{
		{"ann may", "subjectaccessreviews", "", &authorizationv1.SubjectAccessReview{Spec: of("ann", "web")}, yes},
		{"ann may not elsewhere", "subjectaccessreviews", "", &authorizationv1.SubjectAccessReview{Spec: of("ann", "db")}, no},
		{"bob may not", "subjectaccessreviews", "", &authorizationv1.SubjectAccessReview{Spec: of("bob", "web")}, no},
		{"a path", "subjectaccessreviews", "", &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "ann", NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/x", Verb: "get"}}}, no},
		{"an unreadable selector", "subjectaccessreviews", "", &authorizationv1.SubjectAccessReview{Spec: broken},
			authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "because", EvaluationError: "spec.resourceAttributes.fieldSelector ignored due to parse error"}},
		{"local", "localsubjectaccessreviews", "web", local(of("ann", "web")), yes},
		{"self", "selfsubjectaccessreviews", "", &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: pods("web")}}, yes},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			out, err := ask(t, test.resource, test.namespace, test.question)
			if err != nil {
				t.Fatal(err)
			}
			got := reflect.ValueOf(out).Elem().FieldByName("Status").Interface()
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

func TestRefusedQuestions(t *testing.T) {
	both := authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: pods("web"), NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/"}}
	good := authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: pods("web")}
	empty := authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: pods("web")}
	empty.ResourceAttributes = pods("web")
	empty.ResourceAttributes.LabelSelector = &authorizationv1.LabelSelectorAttributes{}
	tests := []struct {
		name, resource, namespace string
		question                  runtime.Object
		want                      string
	}{
		{"both", "subjectaccessreviews", "", &authorizationv1.SubjectAccessReview{Spec: both}, "exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		{"neither", "selfsubjectaccessreviews", "", &authorizationv1.SelfSubjectAccessReview{}, "exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		{"nobody", "subjectaccessreviews", "", &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: pods("web")}},
			"spec.user: Invalid value: \"\": at least one of user or group must be specified"},
		{"a name", "subjectaccessreviews", "", &authorizationv1.SubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: good}, "must be empty"},
		{"an empty selector", "subjectaccessreviews", "", &authorizationv1.SubjectAccessReview{Spec: empty},
			"spec.resourceAttributes.labelSelector.requirements: Required value: when spec.resourceAttributes.labelSelector is specified, requirements or rawSelector is required"},
		{"another namespace in the question", "localsubjectaccessreviews", "db", &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "db"}, Spec: good},
			"spec.resourceAttributes.namespace: Invalid value: \"web\": must match metadata.namespace"},
		{"another namespace in the body", "localsubjectaccessreviews", "db", &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "web"}, Spec: good},
			"spec.resourceAttributes.namespace must match namespace: db"},
		{"rules of no namespace", "selfsubjectrulesreviews", "", &authorizationv1.SelfSubjectRulesReview{}, "no namespace on request"},
		{"another kind", "subjectaccessreviews", "", &authorizationv1.SelfSubjectRulesReview{}, "not a SubjectAccessReview: *v1.SelfSubjectRulesReview"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := ask(t, test.resource, test.namespace, test.question)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestSelfRules(t *testing.T) {
	out, err := ask(t, "selfsubjectrulesreviews", "", &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "web"}})
	if err != nil {
		t.Fatal(err)
	}
	want := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    []authorizationv1.ResourceRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}, ResourceNames: []string{"p"}}},
		NonResourceRules: []authorizationv1.NonResourceRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}},
		Incomplete:       true, EvaluationError: "half",
	}
	if got := out.(*authorizationv1.SelfSubjectRulesReview).Status; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
