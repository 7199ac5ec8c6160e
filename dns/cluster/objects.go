package cluster

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// Names of the indexes that Objects adds to the informers.
const (
	byClusterIP  = "dns/cluster-ip"
	byEndpointIP = "dns/endpoint-ip"
	byService    = "dns/service"
)

// Objects is the zone's view of the API: the informers' own stores, with indexes by address and by Service.
type Objects struct {
	services, slices, namespaces cache.Indexer
	synced                       []cache.InformerSynced
	changed                      atomic.Int64 // Unix time of the last change
}

// NewObjects adds indexes and a change handler to the shared informers; call it before the factory is started. The caller
// starts the factory and owns it.
func NewObjects(factory informers.SharedInformerFactory) (*Objects, error) {
	services := factory.Core().V1().Services().Informer()
	slices := factory.Discovery().V1().EndpointSlices().Informer()
	namespaces := factory.Core().V1().Namespaces().Informer()
	o := &Objects{services: services.GetIndexer(), slices: slices.GetIndexer(), namespaces: namespaces.GetIndexer()}
	if err := services.AddIndexers(cache.Indexers{byClusterIP: clusterIPKeys}); err != nil {
		return nil, err
	}
	if err := slices.AddIndexers(cache.Indexers{byService: serviceKeys, byEndpointIP: endpointIPKeys}); err != nil {
		return nil, err
	}
	o.touch()
	for _, informer := range []cache.SharedIndexInformer{services, slices, namespaces} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { o.touch() },
			UpdateFunc: func(any, any) { o.touch() },
			DeleteFunc: func(any) { o.touch() },
		}); err != nil {
			return nil, err
		}
		o.synced = append(o.synced, informer.HasSynced)
	}
	return o, nil
}

// Synced says whether the stores hold what the API server had when they were started.
func (o *Objects) Synced() bool {
	for _, synced := range o.synced {
		if !synced() {
			return false
		}
	}
	return true
}

func (o *Objects) touch() { o.changed.Store(time.Now().Unix()) }

func (o *Objects) serial() uint32 { return uint32(o.changed.Load()) }

func (o *Objects) namespaceExists(name string) bool {
	_, ok, err := o.namespaces.GetByKey(name)
	return ok && err == nil
}

func (o *Objects) service(namespace, name string) *corev1.Service {
	obj, ok, err := o.services.GetByKey(namespace + "/" + name)
	if !ok || err != nil {
		return nil
	}
	return obj.(*corev1.Service)
}

// endpoint is one ready address of a Service.
type endpoint struct {
	addr  netip.Addr
	host  string
	ports []endpointPort
}

type endpointPort struct {
	name     string
	protocol corev1.Protocol
	number   int32
}

// endpoints returns the ready endpoints of svc.
func (o *Objects) endpoints(svc *corev1.Service) []endpoint {
	objs, err := o.slices.ByIndex(byService, svc.Namespace+"/"+svc.Name)
	if err != nil {
		return nil
	}
	var out []endpoint
	for _, obj := range objs {
		slice := obj.(*discoveryv1.EndpointSlice)
		ports := slicePorts(slice)
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, s := range e.Addresses {
				if addr, err := netip.ParseAddr(s); err == nil {
					out = append(out, endpoint{addr: addr, host: endpointHost(e, addr), ports: ports})
				}
			}
		}
	}
	return out
}

func slicePorts(slice *discoveryv1.EndpointSlice) []endpointPort {
	var out []endpointPort
	for _, p := range slice.Ports {
		if p.Port == nil {
			continue
		}
		port := endpointPort{number: *p.Port, protocol: corev1.ProtocolTCP}
		if p.Name != nil {
			port.name = *p.Name
		}
		if p.Protocol != nil {
			port.protocol = *p.Protocol
		}
		out = append(out, port)
	}
	return out
}

// endpointHost is the label of an endpoint below its Service: its host name, else its address with dashes as CoreDNS writes it.
func endpointHost(e discoveryv1.Endpoint, addr netip.Addr) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return strings.ToLower(*e.Hostname)
	}
	host := strings.NewReplacer(".", "-", ":", "-").Replace(addr.String())
	if strings.HasSuffix(host, "-") {
		host += "0"
	}
	return host
}

func clusterIPKeys(obj any) ([]string, error) {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return nil, nil
	}
	var keys []string
	for _, a := range clusterIPs(svc) {
		keys = append(keys, a.String())
	}
	return keys, nil
}

func serviceKeys(obj any) ([]string, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
}

func endpointIPKeys(obj any) ([]string, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, nil
	}
	var keys []string
	for _, e := range slice.Endpoints {
		keys = append(keys, e.Addresses...)
	}
	return keys, nil
}
