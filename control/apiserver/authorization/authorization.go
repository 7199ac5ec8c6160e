package authorization

import (
	"fmt"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/path"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/client-go/informers"
)

// Public are the paths that need no login: a load balancer asks them.
var Public = []string{"/livez", "/readyz", "/healthz", "/version"}

// New returns the authorizer, and the part of it that tells a user's rules. The informers deliver the RBAC objects; the caller starts them.
func New(factory informers.SharedInformerFactory, pods PodsOf) (authorizer.Authorizer, *RBAC, error) {
	public, err := path.NewAuthorizer(Public)
	if err != nil {
		return nil, nil, fmt.Errorf("public paths: %w", err)
	}
	roles := newRBAC(factory)
	all, err := union.New(
		union.NamedAuthorizer{AuthorizerName: "masters", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		union.NamedAuthorizer{AuthorizerName: "public", Authorizer: public},
		union.NamedAuthorizer{AuthorizerName: "node", Authorizer: authorizer.AuthorizerFunc(nodes{pods}.authorize)},
		union.NamedAuthorizer{AuthorizerName: "rbac", Authorizer: authorizer.AuthorizerFunc(roles.authorize)},
	)
	return all, roles, err
}
