package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	requestunion "k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/control/apiserver/admission"
	"github.com/skep-io/skep/control/apiserver/authorization"
	"github.com/skep-io/skep/control/apiserver/authorization/aggregation"
	"github.com/skep-io/skep/control/apiserver/authorization/policy"
	"github.com/skep-io/skep/control/apiserver/authorization/review"
	"github.com/skep-io/skep/control/apiserver/token"
	"github.com/skep-io/skep/control/join"
)

// tokenTTL is how long a token that was found good is not looked at again.
const tokenTTL = 10 * time.Second

// access is who may do what: authentication, authorization and admission of the server, and their informers.
type access struct {
	client kubernetes.Interface
	// roles are the informers of authorization, namespaces that of admission.
	roles, namespaces informers.SharedInformerFactory
	aggregator        *aggregation.Aggregator
	// documents are what verifiers of tokens read, by path.
	documents map[string]http.Handler
	// members is where nodes join.
	members http.Handler
}

// newAccess sets the generic server's authentication, authorization and admission, and adds the resources by which clients ask
// about them.
func newAccess(cfg Config, c *genericapiserver.Config, k *kinds) (*access, error) {
	client, err := kubernetes.NewForConfig(c.LoopbackClientConfig)
	if err != nil {
		return nil, err
	}
	a := &access{client: client, roles: informers.NewSharedInformerFactory(client, 0), namespaces: informers.NewSharedInformerFactory(client, 0)}
	a.members = &join.Server{Client: client, Keys: cfg.Keys, Cluster: join.Cluster{PodCIDRs: cfg.PodCIDRs, ServiceCIDRs: cfg.ServiceCIDRs}, Logger: cfg.Logger}
	if err := a.authenticate(cfg, c, k); err != nil {
		return nil, err
	}
	if a.aggregator, err = aggregation.New(client, a.roles.Rbac().V1().ClusterRoles(), cfg.Logger); err != nil {
		return nil, err
	}
	authority, held, err := authorization.New(a.roles, k.podsOf)
	if err != nil {
		return nil, err
	}
	c.Authorization.Authorizer, c.RuleResolver = authority, held
	for name, storage := range review.Storages(c.Authorization.Authorizer, c.RuleResolver) {
		k.all.add(authorizationv1.SchemeGroupVersion, name, storage)
	}
	c.AdmissionControl, err = admission.New(client, a.namespaces, authority, held)
	return a, err
}

// authenticate accepts certificates of the cluster's CA and ServiceAccount tokens, and nobody else but on the public paths.
func (a *access) authenticate(cfg Config, c *genericapiserver.Config, k *kinds) error {
	ca, err := dynamiccertificates.NewStaticCAContent("cluster-ca", cfg.Keys.CA.Cert)
	if err != nil {
		return fmt.Errorf("cluster CA: %w", err)
	}
	c.SecureServing.ClientCA = ca
	issuer := "https://kubernetes.default.svc." + cfg.ClusterDomain
	tokens, err := token.New(cfg.Keys.ServiceAccountKey, issuer, []string{issuer})
	if err != nil {
		return err
	}
	if a.documents, err = tokens.Discovery("https://" + c.ExternalAddress); err != nil {
		return err
	}
	objects := token.Objects{ServiceAccounts: k.byKind["ServiceAccount"], Pods: k.byKind["Pod"], Secrets: k.byKind["Secret"], Nodes: k.byKind["Node"]}
	check := cache.New(tokens.Authenticator(objects), false, tokenTTL, tokenTTL)
	c.Authentication.APIAudiences = tokens.Audiences()
	known := requestunion.New(x509.NewDynamic(ca.VerifyOptions, x509.CommonNameUserConversion), bearertoken.New(tokenunion.New(check, join.Authenticator(k.byKind["Secret"]))), websocket.NewProtocolAuthenticator(check))
	c.Authentication.Authenticator = requestunion.NewFailOnError(group.NewAuthenticatedGroupAdder(known), authenticator.RequestFunc(anonymously))

	k.merge("ServiceAccount", map[string]rest.Storage{"serviceaccounts/token": token.NewREST(tokens, objects)})
	gv := authenticationv1.SchemeGroupVersion
	k.all.add(gv, "tokenreviews", token.NewReviewREST(check, tokens.Audiences()))
	k.all.add(gv, "selfsubjectreviews", token.NewSelfReviewREST())
	return nil
}

// anonymously takes requests for the public paths from whom nobody knows.
func anonymously(req *http.Request) (*authenticator.Response, bool, error) {
	if !authorization.Public(req.URL.Path) {
		return nil, false, nil
	}
	return anonymous.NewAuthenticator(nil).AuthenticateRequest(req)
}

// mount serves the documents. Clients made from old API documents ask with a slash at the end.
func (a *access) mount(mux *mux.PathRecorderMux) {
	for path, document := range a.documents {
		mux.Handle(path, document)
		mux.Handle(path+"/", document)
	}
	mux.Handle(join.Path, a.members)
}

// start makes the default roles and starts the informers and what keeps gathering roles, once the server serves. It returns when what
// the roles allow is allowed; all of it ends with ctx.
func (a *access) start(ctx context.Context) error {
	a.namespaces.StartWithContext(ctx)
	if err := policy.Ensure(ctx, a.client); err != nil {
		return err
	}
	// Started now, the first list of each has what was just made.
	a.roles.StartWithContext(ctx)
	go a.aggregator.Run(ctx)
	return a.roles.WaitForCacheSyncWithContext(ctx).Err
}

// podsOf implements authorization.PodsOf on the watch cache.
func (k *kinds) podsOf(ctx context.Context, namespace, node string, fresh bool) ([]corev1.Pod, error) {
	options := &internalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node)}
	if !fresh {
		options.ResourceVersion = "0"
	}
	list, err := k.byKind["Pod"].List(genericapirequest.WithNamespace(ctx, namespace), options)
	if err != nil {
		return nil, fmt.Errorf("pods of node %s: %w", node, err)
	}
	return list.(*corev1.PodList).Items, nil
}
