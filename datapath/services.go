package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/health"
	"github.com/skep-io/skep/datapath/observe"
	"github.com/skep-io/skep/datapath/reconcile"
	"github.com/skep-io/skep/datapath/translate"
)

// indexByService finds EndpointSlices by the Service that they belong to.
const indexByService = "skep.dev/service"

// Retries of what the kernel refused wait twice as long each time, between these.
const (
	retryMin = 10 * time.Millisecond
	retryMax = 5 * time.Second
)

// services turns the API's events into kernel state. Handlers only mark what changed; one goroutine does the work, in
// proportion to the change, as soon as it is free: events that come while it works are taken together.
type services struct {
	view     translate.View
	nodeName string
	// clusterCIDRs are the addresses of all pods.
	clusterCIDRs []netip.Prefix
	informers    informers.SharedInformerFactory
	services     corelisters.ServiceLister
	slices       cache.Indexer
	nodes        corelisters.NodeLister
	pods         corelisters.PodLister
	table        *reconcile.Services
	health       *health.Server
	flows        *reconcile.Flows
	sockets      *reconcile.Sockets
	remote       *nodes
	programming  *observe.Programming
	logger       *slog.Logger
	handlers     []cache.InformerSynced

	// rezoned: view.Zone changed, and the Services are yet to be translated by it.
	rezoned bool

	// ringless is how many services were last found without a ring.
	ringless int

	warnings *serviceWarnings

	// wake is signalled after dirty grew or nodesDirty was set.
	wake chan struct{}

	mu         sync.Mutex
	dirty      map[reconcile.Owner]struct{}
	lost       map[reconcile.Owner][]desired.Backend // to which sockets may be stuck
	ended      map[netip.Addr]struct{}               // of pods, to which sockets may be stuck too
	since      time.Time                             // of the oldest mark that was not taken yet
	nodesDirty bool
}

func newServices(cfg Config, m *bpfmap.Maps, flows *reconcile.Flows, sockets *reconcile.Sockets, remote *nodes, ready func() bool) (*services, error) {
	table, err := reconcile.Restore(m, flows.ForgetBackend)
	if err != nil {
		return nil, err
	}
	s := &services{
		view:         translate.View{NodeName: cfg.NodeName, DNS: cfg.DNS},
		nodeName:     cfg.NodeName,
		clusterCIDRs: cfg.ClusterCIDRs,
		informers:    cfg.Informers,
		services:     cfg.Informers.Core().V1().Services().Lister(),
		nodes:        cfg.Informers.Core().V1().Nodes().Lister(),
		pods:         cfg.Informers.Core().V1().Pods().Lister(),
		slices:       cfg.Informers.Discovery().V1().EndpointSlices().Informer().GetIndexer(),
		table:        table,
		flows:        flows,
		sockets:      sockets,
		health:       health.NewServer(ready, cfg.Logger),
		remote:       remote,
		programming:  observe.NewProgramming(time.Now()),
		logger:       cfg.Logger,
		warnings:     newServiceWarnings(cfg),
		wake:         make(chan struct{}, 1),
		dirty:        map[reconcile.Owner]struct{}{},
		lost:         map[reconcile.Owner][]desired.Backend{},
		ended:        map[netip.Addr]struct{}{},
	}
	return s, s.subscribe()
}

func (s *services) subscribe() error {
	endpoints := s.informers.Discovery().V1().EndpointSlices().Informer()
	if _, exists := endpoints.GetIndexer().GetIndexers()[indexByService]; !exists {
		if err := endpoints.AddIndexers(cache.Indexers{indexByService: serviceKeys}); err != nil {
			return fmt.Errorf("index of endpoint slices: %w", err)
		}
	}
	marks := map[cache.SharedIndexInformer]func(obj any){
		s.informers.Core().V1().Services().Informer(): func(obj any) {
			if svc, ok := obj.(*corev1.Service); ok {
				s.mark(reconcile.Owner{Namespace: svc.Namespace, Name: svc.Name})
			}
		},
		endpoints: func(obj any) {
			if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
				s.markSlice(slice)
			}
		},
		s.informers.Core().V1().Nodes().Informer(): func(any) { s.markNodes() },
		s.informers.Core().V1().Pods().Informer(): func(obj any) {
			if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName == s.nodeName && translate.HasHostPorts(pod) {
				s.mark(reconcile.Owner{Namespace: pod.Namespace, Name: desired.PodName(pod.Name)})
			}
		},
	}
	for informer, mark := range marks {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { mark(obj); s.measure(nil, obj) },
			UpdateFunc: func(before, after any) { s.lose(before, after); mark(before); mark(after); s.measure(before, after) },
			DeleteFunc: func(obj any) {
				if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				s.lose(obj, nil)
				mark(obj)
				s.measure(obj, nil)
			},
		})
		if err != nil {
			return fmt.Errorf("follow the API: %w", err)
		}
		s.handlers = append(s.handlers, registration.HasSynced)
	}
	return nil
}

// serviceKeys is the index function of indexByService.
func serviceKeys(obj any) ([]string, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, nil
	}
	owner, ok := ownerOf(slice)
	if !ok {
		return nil, nil
	}
	return []string{owner.Namespace + "/" + owner.Name}, nil
}

func (s *services) markSlice(slice *discoveryv1.EndpointSlice) {
	if owner, ok := ownerOf(slice); ok {
		s.mark(owner)
	}
}

func ownerOf(slice *discoveryv1.EndpointSlice) (reconcile.Owner, bool) {
	name := slice.Labels[discoveryv1.LabelServiceName]
	return reconcile.Owner{Namespace: slice.Namespace, Name: name}, name != ""
}

// lose notes the backends that went with a change of an object.
func (s *services) lose(before, after any) {
	switch before.(type) {
	case *discoveryv1.EndpointSlice:
		s.loseSlice(before, after)
	case *corev1.Pod:
		s.losePod(before, after)
	}
}

// losePod notes a pod that has ended. Its slices may have let go of it long before, but its streams were its own until now.
func (s *services) losePod(before, after any) {
	was, _ := before.(*corev1.Pod)
	is, _ := after.(*corev1.Pod)
	addresses := translate.PodAddresses(was)
	if len(addresses) == 0 || is != nil && is.UID == was.UID && len(translate.PodAddresses(is)) > 0 {
		return
	}
	s.mu.Lock()
	for _, a := range addresses {
		s.ended[a] = struct{}{}
	}
	s.mu.Unlock()
	s.signal()
}

// loseSlice notes the backends that a slice does not hold any more.
func (s *services) loseSlice(before, after any) {
	was, ok := before.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	is, _ := after.(*discoveryv1.EndpointSlice)
	owner, ok := ownerOf(was)
	lost := translate.Lost(was, is)
	if !ok || len(lost) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[owner] = append(s.lost[owner], lost...)
}

func (s *services) mark(owner reconcile.Owner) {
	s.mu.Lock()
	if len(s.dirty) == 0 {
		s.since = time.Now()
	}
	s.dirty[owner] = struct{}{}
	s.mu.Unlock()
	s.signal()
}

// again marks a Service for the next retry, without waking anybody for it.
func (s *services) again(owner reconcile.Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty[owner] = struct{}{}
}

func (s *services) markNodes() {
	s.mu.Lock()
	s.nodesDirty = true
	s.mu.Unlock()
	s.signal()
}

func (s *services) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run does the work until ctx ends. It writes nothing before every source has synced: a Service whose slices have not come yet
// looks like one without endpoints, and the kernel still has the right ones from before.
func (s *services) run(ctx context.Context, synced chan<- struct{}) {
	defer s.health.Close()
	s.informers.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), s.handlers...) {
		return
	}
	s.markNodes()
	pruned, retry := false, retryMin
	for {
		var timer <-chan time.Time
		if err := s.apply(&pruned); err != nil {
			s.logger.Warn("the kernel lacks Services", "error", err, "retry", retry)
			timer = time.After(retry)
			retry = min(2*retry, retryMax)
		} else {
			retry = retryMin
			if synced != nil {
				close(synced)
				synced = nil
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer:
		}
	}
}

// apply brings the kernel up to date with what was marked and with what failed before.
func (s *services) apply(pruned *bool) error {
	round := s.programming.Begin()
	s.mu.Lock()
	dirty, lost, ended, nodesDirty, since := s.dirty, s.lost, s.ended, s.nodesDirty, s.since
	s.ended = map[netip.Addr]struct{}{}
	s.dirty, s.lost, s.nodesDirty = map[reconcile.Owner]struct{}{}, map[reconcile.Owner][]desired.Backend{}, false
	s.mu.Unlock()

	var errs []error
	if nodesDirty {
		if err := s.applyNodes(); err != nil {
			errs = append(errs, err)
			s.mu.Lock()
			s.nodesDirty = true
			s.mu.Unlock()
		}
	}
	if s.rezoned {
		s.rezoned = false
		if err := s.addAll(dirty); err != nil {
			errs = append(errs, err)
		}
	}
	ids := map[reconcile.Owner][]uint32{}
	for owner := range lost {
		ids[owner] = s.table.IDs(owner)
	}
	for owner := range dirty {
		rows, err := s.translate(owner)
		s.table.Set(owner, rows)
		if err != nil {
			errs = append(errs, err)
			s.again(owner)
		}
	}
	errs = append(errs, s.table.Apply())
	s.warnings.update(dirty, s.table.Lacking())
	for owner, backends := range lost {
		s.reset(owner, ids[owner], backends)
	}
	errs = append(errs, s.resetEnded(ended))
	if err := errors.Join(errs...); err != nil {
		round.Failed()
		return err
	}
	if n := s.table.Ringless(); n != s.ringless {
		s.ringless = n
		s.programming.Ringless(n)
		s.logger.Warn("no room for more rings: clients outside are spread at random", "services", n)
	}
	if len(dirty) == 0 {
		since = time.Time{}
	}
	round.Done(since)
	if !*pruned {
		if err := s.table.Prune(); err != nil {
			return err
		}
		if err := s.resetLost(); err != nil {
			return err
		}
		*pruned = true
	}
	return nil
}

// reset resets the sockets that are stuck with backends which went, unless these are in another slice by now.
func (s *services) reset(owner reconcile.Owner, ids []uint32, backends []desired.Backend) {
	holding := s.holding(owner)
	for _, b := range backends {
		if _, ok := holding[b]; !ok {
			s.sockets.Reset(ids, b)
		}
	}
}

// resetEnded resets the sockets that are stuck with pods which have ended, and forgets flows to them: their addresses may be given
// to others. Whoever has them by now is left alone.
func (s *services) resetEnded(ended map[netip.Addr]struct{}) error {
	if len(ended) == 0 {
		return nil
	}
	alive, err := s.podAddresses()
	if err != nil {
		return err
	}
	for a := range alive {
		delete(ended, a)
	}
	s.sockets.ResetAddresses(ended)
	for a := range ended {
		s.flows.Forget(a)
	}
	return nil
}

// podAddresses returns the addresses of all pods of the cluster that run.
func (s *services) podAddresses() (map[netip.Addr]struct{}, error) {
	pods, err := s.pods.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	alive := make(map[netip.Addr]struct{}, len(pods))
	for _, pod := range pods {
		for _, a := range translate.PodAddresses(pod) {
			alive[a] = struct{}{}
		}
	}
	return alive, nil
}

// resetLost resets the sockets that are stuck with backends which went while no process was there: datagram sockets whose backend
// serves no more, and streams whose pod is no more, for a stream may outlive its backend's membership in a Service.
func (s *services) resetLost() error {
	list, err := s.services.List(labels.Everything())
	if err != nil {
		return err
	}
	owners := map[uint32]reconcile.Owner{}
	for _, svc := range list {
		owner := reconcile.Owner{Namespace: svc.Namespace, Name: svc.Name}
		for _, id := range s.table.IDs(owner) {
			owners[id] = owner
		}
	}
	alive, err := s.podAddresses()
	if err != nil {
		return err
	}
	known := map[reconcile.Owner]map[desired.Backend]bool{}
	return s.sockets.ResetLost(func(id uint32, b desired.Backend) bool {
		if addr := b.Address.Addr(); b.Protocol == desired.TCP {
			_, ok := alive[addr]
			if ok || !slices.ContainsFunc(s.clusterCIDRs, func(p netip.Prefix) bool { return p.Contains(addr) }) {
				return true
			}
		}
		owner, ok := owners[id]
		if !ok {
			return false
		}
		holding := known[owner]
		if holding == nil {
			holding = s.holding(owner)
			// This node's own server is in no slice.
			for _, server := range s.view.DNS {
				holding[desired.Backend{Address: server, Protocol: b.Protocol}] = true
			}
			known[owner] = holding
		}
		_, ok = holding[b]
		return ok
	})
}

// holding returns the backends that are in a Service's slices, serving or not.
func (s *services) holding(owner reconcile.Owner) map[desired.Backend]bool {
	holding := map[desired.Backend]bool{}
	for _, slice := range s.slicesOf(owner) {
		translate.Holding(slice, holding)
	}
	return holding
}

// slicesOf returns the EndpointSlices of a Service.
func (s *services) slicesOf(owner reconcile.Owner) []*discoveryv1.EndpointSlice {
	objects, err := s.slices.ByIndex(indexByService, owner.Namespace+"/"+owner.Name)
	if err != nil {
		s.logger.Error("index of endpoint slices", "error", err)
	}
	list := make([]*discoveryv1.EndpointSlice, 0, len(objects))
	for _, obj := range objects {
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
			list = append(list, slice)
		}
	}
	return list
}

// translate returns the rows that one Service, or one pod with host ports, asks for, and has its health answered for. Listers and indexes read memory,
// and know but one error: that the object is not there, and so asks for nothing.
func (s *services) translate(owner reconcile.Owner) ([]desired.Service, error) {
	if name, ok := desired.CutPodName(owner.Name); ok {
		pod, err := s.pods.Pods(owner.Namespace).Get(name)
		if err != nil || pod.Spec.NodeName != s.nodeName {
			return nil, nil
		}
		return translate.HostPorts(pod), nil
	}
	svc, err := s.services.Services(owner.Namespace).Get(owner.Name)
	if err != nil {
		s.health.Remove(owner.Namespace, owner.Name)
		return nil, nil
	}
	endpoints := s.slicesOf(owner)
	rows := translate.Service(svc, endpoints, s.view)
	port, local, ok := translate.Health(svc, endpoints, s.view)
	if !ok {
		s.health.Remove(owner.Namespace, owner.Name)
		return rows, nil
	}
	return rows, s.health.Set(health.Service{Namespace: owner.Namespace, Name: owner.Name, Port: port, Local: local})
}

// addAll adds every Service, for all depend on where this node is.
func (s *services) addAll(dirty map[reconcile.Owner]struct{}) error {
	list, err := s.services.List(labels.Everything())
	for _, svc := range list {
		dirty[reconcile.Owner{Namespace: svc.Namespace, Name: svc.Name}] = struct{}{}
	}
	return err
}

// applyNodes tells the kernel the addresses of the other nodes.
func (s *services) applyNodes() error {
	list, err := s.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	remote := map[netip.Addr]struct{}{}
	var peers []desired.Peer
	for _, node := range list {
		if node.Name == s.nodeName {
			zone := node.Labels[corev1.LabelTopologyZone]
			s.rezoned = s.rezoned || zone != s.view.Zone
			s.view.Zone = zone
			continue
		}
		for _, a := range translate.NodeAddresses(node) {
			remote[a] = struct{}{}
		}
		peers = append(peers, translate.Peers(node)...)
	}
	return errors.Join(s.remote.setRemote(remote), s.remote.setPeers(peers))
}
