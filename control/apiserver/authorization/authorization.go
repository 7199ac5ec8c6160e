package authorization

import (
	"context"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/client-go/informers"

	"github.com/skep-io/skep/control/apiserver/authorization/policy"
	"github.com/skep-io/skep/control/join"
)

// Public says whether a path needs no login: a load balancer asks for those of health, and for the single checks below them.
// A path that leads out of where it begins does not.
func Public(path string) bool {
	if strings.Contains(path, "..") {
		return false
	}
	for _, health := range []string{"/livez", "/readyz", "/healthz"} {
		if path == health || strings.HasPrefix(path, health+"/") {
			return true
		}
	}
	return path == "/version"
}

// public allows the public paths to everybody.
func public(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if !a.IsResourceRequest() && Public(a.GetPath()) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// joins lets bearers of bootstrap tokens and nodes ask for a node's certificates; what they get is decided there.
func joins(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	groups := a.GetUser().GetGroups()
	if !a.IsResourceRequest() && a.GetPath() == join.Path && a.GetVerb() == "post" &&
		(slices.Contains(groups, join.BootstrapGroup) || slices.Contains(groups, join.NodesGroup)) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// New returns the authorizer, and the part of it that tells a user's rules. The informers deliver the RBAC objects; the caller starts them.
func New(factory informers.SharedInformerFactory, pods PodsOf) (authorizer.Authorizer, *RBAC, error) {
	roles := newRBAC(factory)
	all, err := union.New(
		union.NamedAuthorizer{AuthorizerName: "masters", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		union.NamedAuthorizer{AuthorizerName: "public", Authorizer: authorizer.AuthorizerFunc(public)},
		union.NamedAuthorizer{AuthorizerName: "join", Authorizer: authorizer.AuthorizerFunc(joins)},
		union.NamedAuthorizer{AuthorizerName: "node", Authorizer: authorizer.AuthorizerFunc(nodes{pods, policy.Node()}.authorize)},
		union.NamedAuthorizer{AuthorizerName: "rbac", Authorizer: authorizer.AuthorizerFunc(roles.authorize)},
	)
	return all, roles, err
}
