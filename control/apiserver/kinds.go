package apiserver

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"

	"github.com/skep-io/skep/control/api"
	"github.com/skep-io/skep/control/apiserver/allocation"
	"github.com/skep-io/skep/control/apiserver/registry"
)

// eventTTL is how long events are kept.
const eventTTL = time.Hour

// kinds are the stores of all rows with their subresources.
type kinds struct {
	all      groups
	byKind   map[string]*registry.Resource
	services *allocation.Services
}

func newKinds(cfg Config, scheme *runtime.Scheme, stores *storages) (*kinds, error) {
	k := &kinds{
		all:      groups{},
		byKind:   map[string]*registry.Resource{},
		services: allocation.New(allocation.Config{Services: cfg.ServiceCIDRs, Ports: cfg.NodePorts, Reserved: reserved(cfg)}),
	}
	for _, row := range api.Resources() {
		if err := k.add(scheme, row, stores); err != nil {
			return nil, err
		}
	}
	k.services.Hook(k.byKind["Service"].Store)
	return k, nil
}

// add makes the store of a row, or lets the row serve the store of the row that it is stored as.
func (k *kinds) add(scheme *runtime.Scheme, row *api.Resource, stores *storages) error {
	var graceful registry.GracefulDelete
	if row.Kind == "Pod" {
		graceful = registry.DeletePod
	}
	options := registry.Options{REST: stores, Graceful: graceful}
	if !row.StoredAs.Empty() {
		options.SharedWith = k.byKind[row.Kind]
	}
	stores.versions[row.Storage().GroupResource()] = row.Storage().GroupVersion()
	r, err := registry.New(scheme, row, options)
	if err != nil {
		return err
	}
	if row.Kind == "Event" {
		r.TTLFunc = func(runtime.Object, uint64, bool) (uint64, error) { return uint64(eventTTL / time.Second), nil }
	}
	if row.StoredAs.Empty() {
		k.byKind[row.Kind] = r
	}
	k.all.add(row.GroupVersion, row.Name, r)
	if row.HasStatus {
		k.all.add(row.GroupVersion, row.Name+"/status", r.Status())
	}
	return nil
}

// merge adds subresources to the group of a kind.
func (k *kinds) merge(kind string, more map[string]rest.Storage) {
	for gv, storages := range k.all {
		for _, s := range storages {
			if r, ok := s.(*registry.Resource); ok && r == k.byKind[kind] {
				for name, sub := range more {
					k.all.add(gv, name, sub)
				}
				return
			}
		}
	}
}

// restore tells the allocator what the stored Services have. It reads etcd itself: the watch cache refuses reads until it is
// filled.
func (k *kinds) restore(ctx context.Context, stores *storages) error {
	services := k.byKind["Service"]
	options, err := stores.GetRESTOptions(services.DefaultQualifiedResource, nil)
	if err != nil {
		return err
	}
	raw, destroy, err := generic.NewRawStorage(options.StorageConfig, services.NewFunc, services.NewListFunc, "/"+options.ResourcePrefix)
	if err != nil {
		return fmt.Errorf("restore cluster IPs and node ports: %w", err)
	}
	defer destroy()
	list := &corev1.ServiceList{}
	everything := storage.ListOptions{Predicate: storage.Everything, Recursive: true}
	if err := raw.GetList(ctx, services.KeyRootFunc(ctx), everything, list); err != nil {
		return fmt.Errorf("restore cluster IPs and node ports: %w", err)
	}
	for i := range list.Items {
		if err := k.services.Restore(&list.Items[i]); err != nil {
			return fmt.Errorf("restore cluster IPs and node ports: %w", err)
		}
	}
	return nil
}
