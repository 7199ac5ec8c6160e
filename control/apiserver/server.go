// Package apiserver serves the Kubernetes API: the rows of control/api on the machinery of k8s.io/apiserver, over etcd.
package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	goruntime "runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/rest"
	basecompatibility "k8s.io/component-base/compatibility"

	"github.com/skep-io/skep/control/api"
	"github.com/skep-io/skep/control/apiserver/allocation"
	"github.com/skep-io/skep/control/apiserver/openapi"
	"github.com/skep-io/skep/control/pki"
)

// Version is the Kubernetes version whose API is served.
const Version = "1.37.2"

// Config is what the server needs. All fields are required.
type Config struct {
	// Port is served on every address of the machine: pods reach it by the Service kubernetes, people by the node's address.
	Port int
	// AdvertiseAddress is where the Service kubernetes leads.
	AdvertiseAddress netip.Addr
	// EtcdEndpoints are the store's URLs.
	EtcdEndpoints []string
	// Keys are the cluster's.
	Keys *pki.Bundle
	// ServiceCIDRs are the ranges of cluster IPs, one or two of different families, the default family's first. NodePorts is the
	// range of node ports.
	ServiceCIDRs []netip.Prefix
	NodePorts    allocation.Ports
	// PodCIDRs are the pod addresses of all nodes, which those that join are told.
	PodCIDRs []netip.Prefix
	// APIServiceIP is the fixed cluster IP of default/kubernetes. DNSServiceIPs are those of kube-system/kube-dns, one of each
	// range in their order.
	APIServiceIP  netip.Addr
	DNSServiceIPs []netip.Addr
	// ClusterDomain is the cluster's DNS domain, by which tokens name their issuer.
	ClusterDomain string
	// AgentPort is the https port of the nodes' agents.
	AgentPort int
	Logger    *slog.Logger
}

// Server is the API server. Run runs it once.
type Server struct {
	cfg     Config
	generic *genericapiserver.GenericAPIServer
	ready   chan struct{}
}

// New assembles the server; it listens already when New returns, and answers once Run is called.
func New(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, ready: make(chan struct{})}
	scheme := api.NewScheme()
	codecs := serializer.NewCodecFactory(scheme)
	generic, err := genericConfig(cfg, codecs)
	if err != nil {
		return nil, err
	}
	stores, err := newStorages(cfg.EtcdEndpoints, cfg.Keys.EncryptionKey, codecs, generic.StorageObjectCountTracker)
	if err != nil {
		return nil, err
	}
	generic.RESTOptionsGetter = stores
	kinds, err := newKinds(cfg, scheme, stores)
	if err != nil {
		return nil, err
	}
	if err := kinds.restore(ctx, stores); err != nil {
		return nil, err
	}
	access, err := newAccess(cfg, generic, kinds)
	if err != nil {
		return nil, err
	}
	if err := kinds.addSubresources(cfg, generic.Authorization.Authorizer); err != nil {
		return nil, err
	}
	if s.generic, err = generic.Complete(nil).New("skep", genericapiserver.NewEmptyDelegate()); err != nil {
		return nil, err
	}
	openapi.Install(s.generic.Handler.NonGoRestfulMux)
	access.mount(s.generic.Handler.NonGoRestfulMux)
	err = installer{
		server: s.generic, scheme: scheme, codecs: codecs, admission: generic.AdmissionControl,
		addresses: discovery.DefaultAddresses{DefaultAddress: generic.ExternalAddress},
		maxBody:   generic.MaxRequestBodyBytes, minWatch: time.Duration(generic.MinRequestTimeout) * time.Second,
	}.install(kinds.all)
	if err != nil {
		return nil, err
	}
	return s, s.addHooks(access)
}

// genericConfig configures what does not depend on the kinds.
func genericConfig(cfg Config, codecs serializer.CodecFactory) (*genericapiserver.Config, error) {
	c := genericapiserver.NewConfig(codecs)
	c.EffectiveVersion = servedVersion{basecompatibility.NewEffectiveVersionFromString(Version, "", "")}
	c.EnableProfiling = false
	// OpenAPI comes from a document made at build time.
	c.SkipOpenAPIInstallation = true
	c.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	serving := options.NewSecureServingOptions().WithLoopback()
	serving.BindAddress, serving.BindPort = bindAddress(cfg), cfg.Port
	serving.ServerCert.CertKey = options.CertKey{CertFile: cfg.Keys.Server.CertFile, KeyFile: cfg.Keys.Server.KeyFile}
	if err := serving.ApplyTo(&c.SecureServing, &c.LoopbackClientConfig); err != nil {
		return nil, fmt.Errorf("listen on port %d: %w", cfg.Port, err)
	}
	c.ExternalAddress = net.JoinHostPort(cfg.AdvertiseAddress.String(), fmt.Sprint(cfg.Port))
	// Our own parts bring their own pace.
	c.LoopbackClientConfig.QPS = -1
	c.LoopbackClientConfig.ContentType = runtime.ContentTypeProtobuf
	c.LoopbackClientConfig.WarningHandler = rest.NoWarnings{}
	return c, nil
}

// Loopback reaches the server with all rights, for the parts that run in its process.
func (s *Server) Loopback() *rest.Config { return rest.CopyConfig(s.generic.LoopbackClientConfig) }

// Ready is closed when the server answers and what every cluster has exists.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	return s.generic.PrepareRun().RunWithContext(ctx)
}

// addHooks makes the server bootstrap the cluster after it has begun to serve.
func (s *Server) addHooks(access *access) error {
	return s.generic.AddPostStartHook("bootstrap", func(hook genericapiserver.PostStartHookContext) error {
		parts, ctx := errgroup.WithContext(hook.Context)
		parts.Go(func() error { return access.start(hook.Context) })
		parts.Go(func() error { return bootstrap(ctx, access.client, s.cfg) })
		if err := parts.Wait(); err != nil {
			return err
		}
		close(s.ready)
		return nil
	})
}

// servedVersion answers /version with the version of the API instead of the one that this build's libraries know of themselves,
// which is none.
type servedVersion struct {
	basecompatibility.EffectiveVersion
}

// Info implements compatibility.EffectiveVersion.
func (servedVersion) Info() *version.Info {
	return &version.Info{Major: "1", Minor: "37", GitVersion: "v" + Version + "+skep", GitTreeState: "clean",
		GoVersion: goruntime.Version(), Compiler: goruntime.Compiler, Platform: goruntime.GOOS + "/" + goruntime.GOARCH}
}

// bindAddress is every address of the machine: of IPv4 alone where the cluster has no IPv6, since the kernel may not have it.
func bindAddress(cfg Config) net.IP {
	if slices.ContainsFunc(cfg.ServiceCIDRs, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		return net.IPv6zero
	}
	return net.IPv4zero
}
