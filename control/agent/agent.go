// Package agent is a cluster's presence on a machine: it registers the node, runs the pods that are bound to it, and serves
// their logs and streams to the API server.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/control/agent/env"
	"github.com/skep-io/skep/control/agent/node"
	"github.com/skep-io/skep/control/agent/object"
	"github.com/skep-io/skep/control/agent/pod"
	"github.com/skep-io/skep/control/agent/runtime"
	"github.com/skep-io/skep/control/agent/sandbox"
	"github.com/skep-io/skep/control/agent/stream"
	"github.com/skep-io/skep/control/agent/volume"
)

// Config is what an Agent needs. All fields are required but Labels.
type Config struct {
	NodeName string
	// NodeIPs are the node's addresses, primary first.
	NodeIPs []netip.Addr
	// Labels are put on the Node besides the usual ones.
	Labels map[string]string
	// DataDir survives a reboot, RunDir need not.
	DataDir, RunDir string
	// RESTConfig is a client configuration with the node's identity.
	RESTConfig *rest.Config
	// Listen are the addresses of the https server, which have one port; it is usually 10250.
	Listen []netip.AddrPort
	// TLS holds the server's certificate and, in ClientCAs, the cluster's CA. The agent itself requires client certificates.
	TLS *tls.Config
	// Runtime runs the containers. The caller closes it after Run has returned; containers go on.
	Runtime *runtime.Runtime
	Network sandbox.Network
	// NetworkReady is closed when Network works; the node is not ready before.
	NetworkReady <-chan struct{}
	// ClusterDNS is the cluster's DNS address of the primary family, ClusterDomain its domain, "cluster.local" usually.
	ClusterDNS    netip.Addr
	ClusterDomain string
	Logger        *slog.Logger
}

// errNoNetwork is why a node is not ready at first; the words are upstream's.
var errNoNetwork = errors.New("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: the pod network is starting")

// Agent runs the pods of one node.
type Agent struct {
	cfg       Config
	client    kubernetes.Interface
	pods      *pod.Manager
	reporter  *node.Reporter
	podCache  cache.SharedIndexInformer
	services  cache.SharedIndexInformer
	nodes     cache.SharedIndexInformer
	informers []cache.SharedIndexInformer
	recorder  record.EventBroadcaster
	sandboxes *sandbox.Manager
	volumes   *volume.Manager
}

// New wires an agent together; nothing runs before Run. ctx bounds the watches of single objects and should be Run's.
func New(ctx context.Context, cfg Config) (*Agent, error) {
	client, err := kubernetes.NewForConfig(cfg.RESTConfig)
	if err != nil {
		return nil, fmt.Errorf("client of node %s: %w", cfg.NodeName, err)
	}
	version, err := cfg.Runtime.Version(ctx)
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	a := &Agent{cfg: cfg, client: client}
	a.watch()
	allocatable := node.Capacity(cfg.DataDir)
	objects := object.New(ctx, client, a.objectChanged)
	podsDir := filepath.Join(cfg.DataDir, "pods")
	a.sandboxes = sandbox.New(sandbox.Config{
		Dir: filepath.Join(cfg.RunDir, "sandbox"), Network: cfg.Network, Cgroups: cfg.Runtime.Cgroups(), DNS: cfg.ClusterDNS, Zone: cfg.ClusterDomain,
	})
	a.volumes = volume.New(volume.Config{Dir: podsDir, Client: client, Objects: objects, Allocatable: allocatable, Logger: cfg.Logger})
	a.recorder = record.NewBroadcaster(record.WithContext(ctx))
	a.pods = pod.New(pod.Config{
		NodeName: cfg.NodeName, HostIPs: cfg.NodeIPs, LogDir: filepath.Join(cfg.DataDir, "logs", "pods"), PodsDir: podsDir,
		SeccompDir: filepath.Join(cfg.DataDir, "seccomp"),
		Client:     client, Runtime: cfg.Runtime, Sandboxes: a.sandboxes, Volumes: a.volumes,
		Inputs: &env.Resolver{Objects: objects, Services: corelisters.NewServiceLister(a.services.GetIndexer()), Allocatable: allocatable},
		Admit: func(p *corev1.Pod, running []*corev1.Pod) *pod.Rejection {
			return node.Fit(a.node(), allocatable, p, running)
		},
		Recorder: a.recorder.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: cfg.NodeName}),
		Logger:   cfg.Logger,
	})
	a.reporter = node.New(node.Config{
		Name: cfg.NodeName, IPs: cfg.NodeIPs, Labels: cfg.Labels, DataDir: cfg.DataDir, Port: int32(cfg.Listen[0].Port()),
		RuntimeVersion: version, Images: cfg.Runtime.ListImages, Client: client, Logger: cfg.Logger,
	}, errNoNetwork)
	return a, nil
}

// watch makes the informers: the node's own pods, its Node, and the Services, whose addresses go into environments.
func (a *Agent) watch() {
	own := func(field string) func(*metav1.ListOptions) {
		return func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(field, a.cfg.NodeName).String()
		}
	}
	pods := informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithTweakListOptions(own("spec.nodeName")))
	nodes := informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithTweakListOptions(own("metadata.name")))
	all := informers.NewSharedInformerFactory(a.client, 0)
	a.podCache = pods.Core().V1().Pods().Informer()
	a.nodes = nodes.Core().V1().Nodes().Informer()
	a.services = all.Core().V1().Services().Informer()
	a.informers = []cache.SharedIndexInformer{a.podCache, a.nodes, a.services}
}

// objectChanged must not hold up the watch that calls it: volumes may ask the API for tokens.
func (a *Agent) objectChanged(uid string) {
	a.pods.Retry(types.UID(uid))
	go a.volumes.Refresh(uid)
}

func (a *Agent) node() *corev1.Node {
	o, ok, err := a.nodes.GetStore().GetByKey(a.cfg.NodeName)
	if err != nil || !ok {
		return nil
	}
	return o.(*corev1.Node)
}

// Run registers the node and runs its pods until ctx ends. Containers are left running.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer a.recorder.Shutdown()
	a.recorder.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: a.client.CoreV1().Events("")})
	for _, i := range a.informers {
		go i.RunWithContext(ctx)
	}
	go a.reporter.Run(ctx)
	go func() {
		select {
		case <-a.cfg.NetworkReady:
			a.reporter.SetFault(nil)
		case <-ctx.Done():
		}
	}()
	if err := a.cfg.Runtime.Adopt(ctx); err != nil {
		return fmt.Errorf("adopt containers: %w", err)
	}
	served := make(chan error, 1)
	go func() { served <- a.serve(ctx, stream.New(a.cfg.Runtime, resolver{a}, a.cfg.Logger)) }()
	ran := make(chan error, 1)
	go func() {
		// Environments name the Services, so no container starts before they are known.
		if !cache.WaitForCacheSync(ctx.Done(), a.services.HasSynced) {
			ran <- ctx.Err()
			return
		}
		ran <- a.pods.Run(ctx, a.podCache)
	}()
	var err error
	select {
	case err = <-served:
	case err = <-ran:
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}
