// Package controller starts the loops that make the cluster's objects true: each watches through the informers of one shared factory and
// writes through one client.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/skep-io/skep/control/controller/deployment"
	"github.com/skep-io/skep/control/controller/endpoints"
	"github.com/skep-io/skep/control/controller/endpointslice"
	"github.com/skep-io/skep/control/controller/garbage"
	"github.com/skep-io/skep/control/controller/namespace"
	"github.com/skep-io/skep/control/controller/node"
	"github.com/skep-io/skep/control/controller/podgc"
	"github.com/skep-io/skep/control/controller/replicaset"
	"github.com/skep-io/skep/control/controller/serviceaccount"
	"github.com/skep-io/skep/control/scheduler"
)

// Defaults of Config, as upstream has them.
const (
	DefaultNodeGracePeriod        = 50 * time.Second
	DefaultTerminatedPodThreshold = 12500
)

// Config is what the loops need. Client, Metadata, Informers, PodCIDRs, RootCA and Logger are required.
type Config struct {
	// Client and Metadata reach the API server with the rights of all loops together.
	Client   kubernetes.Interface
	Metadata metadata.Interface
	// Informers is the factory that all loops share; NewInformers makes one. Run starts it.
	Informers informers.SharedInformerFactory
	// PodCIDRs are the cluster's pod ranges, one a family, cut into node ranges.
	PodCIDRs []netip.Prefix
	// RootCA is the certificate of the cluster's CA in PEM, published in every namespace.
	RootCA []byte
	// NodeGracePeriod is how long a node may be silent; 0 means DefaultNodeGracePeriod.
	NodeGracePeriod time.Duration
	// TerminatedPodThreshold is how many ended pods are kept; 0 means DefaultTerminatedPodThreshold, less keeps all.
	TerminatedPodThreshold int
	Logger                 *slog.Logger
}

// NewInformers returns a factory whose objects come without managedFields: no loop reads them, and they are a third of an object's size.
func NewInformers(client kubernetes.Interface) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(func(obj any) (any, error) {
		if accessor, err := meta.Accessor(obj); err == nil {
			accessor.SetManagedFields(nil)
		}
		return obj, nil
	}))
}

// Run starts all loops and the scheduler and returns when ctx has ended and the last of them has stopped. It returns an error only when
// a loop could not be set up; then none has started.
//
// Informers in use: Deployments, ReplicaSets, Pods, Nodes, Leases, Namespaces, Services, EndpointSlices and Endpoints; beside them the
// ServiceAccounts and ConfigMaps of two names, and the metadata graph of the garbage collector.
func Run(ctx context.Context, config Config) error {
	broadcaster := record.NewBroadcaster(record.WithContext(klog.NewContext(ctx, klog.FromContext(ctx))))
	defer broadcaster.Shutdown()
	loops, err := newLoops(config, broadcaster)
	if err != nil {
		return err
	}
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: config.Client.CoreV1().Events("")})
	config.Informers.StartWithContext(ctx)
	var group sync.WaitGroup
	for _, loop := range loops {
		group.Go(func() { loop.Run(ctx) })
	}
	group.Wait()
	return nil
}

// loop is one of the controllers: Run works until ctx ends.
type loop interface{ Run(ctx context.Context) }

func newLoops(config Config, broadcaster record.EventBroadcaster) ([]loop, error) {
	recorder := func(component string) record.EventRecorder {
		return broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
	}
	if config.NodeGracePeriod == 0 {
		config.NodeGracePeriod = DefaultNodeGracePeriod
	}
	if config.TerminatedPodThreshold == 0 {
		config.TerminatedPodThreshold = DefaultTerminatedPodThreshold
	}
	client, factory, logger := config.Client, config.Informers, config.Logger
	var loops []loop
	var failures []error
	add := func(name string, l loop, err error) {
		if err != nil {
			failures = append(failures, fmt.Errorf("set up %s: %w", name, err))
		}
		loops = append(loops, l)
	}
	// The order is that of need: a node gets its range and a namespace its account before pods come.
	nodes, err := node.New(client, factory, node.Config{PodCIDRs: config.PodCIDRs, GracePeriod: config.NodeGracePeriod}, recorder("node-controller"), logger)
	add("node", nodes, err)
	accounts, err := serviceaccount.New(client, factory, config.RootCA, logger)
	add("serviceaccount", accounts, err)
	pods, err := scheduler.New(client, factory, recorder(scheduler.Name), logger)
	add("scheduler", pods, err)
	deployments, err := deployment.New(client, factory, recorder("deployment-controller"), logger)
	add("deployment", deployments, err)
	sets, err := replicaset.New(client, factory, recorder("replicaset-controller"), logger)
	add("replicaset", sets, err)
	slices, err := endpointslice.New(client, factory, recorder("endpoint-slice-controller"), logger)
	add("endpointslice", slices, err)
	addresses, err := endpoints.New(client, factory, logger)
	add("endpoints", addresses, err)
	namespaces, err := namespace.New(client, config.Metadata, factory, logger)
	add("namespace", namespaces, err)
	ended, err := podgc.New(client, factory, config.TerminatedPodThreshold, logger)
	add("podgc", ended, err)
	add("garbage", garbage.New(client.Discovery(), config.Metadata, logger), nil)
	return loops, errors.Join(failures...)
}
