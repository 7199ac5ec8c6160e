package apiserver

import (
	"context"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
)

// access decides who may do what.
type access struct{}

// newAccess sets the generic server's authentication, authorization and admission.
func newAccess(cfg Config, c *genericapiserver.Config) (*access, error) {
	ca, err := dynamiccertificates.NewStaticCAContent("cluster-ca", cfg.Keys.CA.Cert)
	if err != nil {
		return nil, err
	}
	c.SecureServing.ClientCA = ca
	var certificates authenticator.Request = x509.NewDynamic(ca.VerifyOptions, x509.CommonNameUserConversion)
	c.Authentication.Authenticator = group.NewAuthenticatedGroupAdder(certificates)
	c.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()
	return &access{}, nil
}

func (a *access) addReviews(groups) {}

func (a *access) start(context.Context, kubernetes.Interface) error { return nil }
