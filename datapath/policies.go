package datapath

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/observe"
	"github.com/skep-io/skep/datapath/reconcile"
	"github.com/skep-io/skep/datapath/translate"
)

// policies keeps the kernel's tables of policies. Pods of other nodes have their addresses from the API; those of this node have
// them from whoever attaches them, and what policies see of them is in the kernel before their first packet. Handlers only note
// what changed; one goroutine does the work. It is safe for concurrent use.
type policies struct {
	nodeName  string
	informers informers.SharedInformerFactory
	recorder  record.EventRecorder // nil: none
	logger    *slog.Logger
	maps      *bpfmap.Maps
	handlers  []cache.InformerSynced
	// synced is closed when the policies that the API had at start are in force.
	synced chan struct{}
	// wake is signalled after something was noted.
	wake chan struct{}

	notesMu sync.Mutex
	notes   policyNotes
	since   time.Time // of the oldest note; zero: there is none

	// programming is set before run is called.
	programming *observe.Programming

	// mu guards what follows, and the rows of endpoints in the kernel.
	mu     sync.Mutex
	table  *reconcile.Policies
	state  *policyState
	local  map[string]*localPod // by UID
	ready  bool                 // the state is that of the API
	warned map[desired.PolicySet]string
}

// policyNotes are the objects that changed; nil ones are gone.
type policyNotes struct {
	pods       map[types.UID]*corev1.Pod
	namespaces map[string]*corev1.Namespace
	policies   map[types.NamespacedName]*networkingv1.NetworkPolicy
}

func newPolicyNotes() policyNotes {
	return policyNotes{
		pods:       map[types.UID]*corev1.Pod{},
		namespaces: map[string]*corev1.Namespace{},
		policies:   map[types.NamespacedName]*networkingv1.NetworkPolicy{},
	}
}

// localPod is a pod of this node.
type localPod struct {
	identity desired.Identity
	// known says that the identity is; after a restart a pod has its addresses before anybody says what it is.
	known     bool
	addresses []netip.Addr
}

func newPolicies(cfg Config, m *bpfmap.Maps) (*policies, error) {
	table, err := reconcile.RestorePolicies(m)
	if err != nil {
		return nil, err
	}
	p := &policies{
		nodeName:  cfg.NodeName,
		informers: cfg.Informers,
		recorder:  cfg.Events,
		logger:    cfg.Logger,
		maps:      m,
		synced:    make(chan struct{}),
		wake:      make(chan struct{}, 1),
		notes:     newPolicyNotes(),
		table:     table,
		state:     newPolicyState(table),
		local:     map[string]*localPod{},
		warned:    map[desired.PolicySet]string{},
	}
	return p, p.subscribe()
}

func (p *policies) subscribe() error {
	for informer, note := range map[cache.SharedIndexInformer]func(obj any, gone bool){
		p.informers.Core().V1().Pods().Informer():                  p.notePod,
		p.informers.Core().V1().Namespaces().Informer():            p.noteNamespace,
		p.informers.Networking().V1().NetworkPolicies().Informer(): p.notePolicy,
	} {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { note(obj, false) },
			UpdateFunc: func(_, obj any) { note(obj, false) },
			DeleteFunc: func(obj any) {
				if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = last.Obj
				}
				note(obj, true)
			},
		})
		if err != nil {
			return fmt.Errorf("follow the API: %w", err)
		}
		p.handlers = append(p.handlers, registration.HasSynced)
	}
	return nil
}

func (p *policies) notePod(obj any, gone bool) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.HostNetwork {
		return
	}
	p.note(func(n policyNotes) {
		n.pods[pod.UID] = pod
		if gone {
			n.pods[pod.UID] = nil
		}
	})
}

func (p *policies) noteNamespace(obj any, gone bool) {
	if ns, ok := obj.(*corev1.Namespace); ok {
		p.note(func(n policyNotes) {
			n.namespaces[ns.Name] = ns
			if gone {
				n.namespaces[ns.Name] = nil
			}
		})
	}
}

func (p *policies) notePolicy(obj any, gone bool) {
	if policy, ok := obj.(*networkingv1.NetworkPolicy); ok {
		p.note(func(n policyNotes) {
			key := types.NamespacedName{Namespace: policy.Namespace, Name: policy.Name}
			n.policies[key] = policy
			if gone {
				n.policies[key] = nil
			}
		})
	}
}

func (p *policies) note(change func(policyNotes)) {
	p.notesMu.Lock()
	change(p.notes)
	if p.since.IsZero() {
		p.since = time.Now()
	}
	p.notesMu.Unlock()
	p.signal()
}

func (p *policies) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run does the work until ctx ends. It writes nothing before every source has synced: the kernel still has what was right before.
func (p *policies) run(ctx context.Context) {
	p.informers.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), p.handlers...) {
		return
	}
	pruned, retry := false, retryMin
	for {
		var timer <-chan time.Time
		if err := p.apply(&pruned); err != nil {
			p.logger.Warn("the kernel lacks rows of policies", "error", err, "retry", retry)
			timer = time.After(retry)
			retry = min(2*retry, retryMax)
		} else {
			retry = retryMin
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer:
		}
	}
}

func (p *policies) takeNotes() (policyNotes, time.Time) {
	p.notesMu.Lock()
	defer p.notesMu.Unlock()
	notes, since := p.notes, p.since
	p.notes, p.since = newPolicyNotes(), time.Time{}
	return notes, since
}

// apply brings the kernel up to date with what was noted and with what failed before.
func (p *policies) apply(pruned *bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	notes, since := p.takeNotes()
	for name, ns := range notes.namespaces {
		if ns == nil {
			p.state.setNamespace(name, nil)
			continue
		}
		p.state.setNamespace(name, labels.Set(ns.Labels))
	}
	for key, policy := range notes.policies {
		p.setPolicy(key, policy)
	}
	for uid, pod := range notes.pods {
		p.setPod(string(uid), pod)
	}
	err := p.table.Apply()
	if err == nil && !*pruned {
		if err = p.table.Prune(); err == nil {
			*pruned = true
		}
	}
	if err == nil && !since.IsZero() {
		p.programming.Policies(time.Since(since))
	}
	p.warn()
	if !p.ready {
		p.ready = true
		close(p.synced)
	}
	return err
}

func (p *policies) setPolicy(key types.NamespacedName, policy *networkingv1.NetworkPolicy) {
	if policy == nil {
		p.state.setPolicy(key.Namespace, key.Name, nil)
		return
	}
	read, err := translate.ReadPolicy(policy)
	if err != nil {
		p.event(policy, "InvalidRule", err.Error())
	}
	p.state.setPolicy(key.Namespace, key.Name, read)
}

func (p *policies) setPod(uid string, pod *corev1.Pod) {
	local := p.local[uid]
	switch {
	case pod == nil && local == nil:
		p.state.setPod(uid, policyPod{})
	case pod == nil: // until it is detached its network goes on
		if len(local.addresses) == 0 {
			delete(p.local, uid)
		}
	case pod.Spec.NodeName == p.nodeName:
		p.setLocal(uid, func(l *localPod) { l.identity, l.known = translate.Identity(pod), true })
	default:
		p.state.setPod(uid, policyPod{identity: translate.Identity(pod), addresses: translate.PodAddresses(pod)})
	}
}

// setLocal changes what is known of a pod of this node.
func (p *policies) setLocal(uid string, change func(*localPod)) {
	local := p.local[uid]
	if local == nil {
		local = &localPod{}
		p.local[uid] = local
	}
	change(local)
	if local.known {
		p.state.setPod(uid, policyPod{identity: local.identity, addresses: slices.Clone(local.addresses), local: true})
	}
}

// expect says what a pod of this node is that is about to get its address. It waits until the policies of the API are known.
func (p *policies) expect(ctx context.Context, uid string, id desired.Identity) error {
	select {
	case <-p.synced:
	case <-ctx.Done():
		return fmt.Errorf("wait for network policies: %w", ctx.Err())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// What the API says of a pod that is there already may be newer.
	if local := p.local[uid]; local == nil || !local.known {
		p.setLocal(uid, func(l *localPod) { l.identity, l.known = id, true })
	}
	return nil
}

// put writes the row of a pod of this node with its policies, whose own rows are there by then. A pod of which nobody has said
// yet what it is keeps those that it had. It returns the row that was there before.
func (p *policies) put(e desired.Endpoint) (before desired.Endpoint, existed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, row, existed, err := p.maps.Endpoint(e.Address)
	if err != nil {
		return before, existed, err
	}
	p.setLocal(e.Pod, func(l *localPod) {
		if !slices.Contains(l.addresses, e.Address) {
			l.addresses = append(l.addresses, e.Address)
		}
	})
	if p.ready && p.local[e.Pod].known {
		if err := p.table.Apply(); err != nil {
			p.logger.Warn("the kernel lacks rows of policies", "error", err)
			p.warn()
			p.signal()
		}
		row = p.table.Subject(e.Address)
		if row.Isolated() && !p.table.Isolation() {
			return before, existed, fmt.Errorf("policies of %s: not in force", e.Address)
		}
	}
	if err := p.maps.PutEndpoint(e, row); err != nil {
		return before, existed, err
	}
	p.table.Wrote(e.Address, row)
	return before, existed, nil
}

// delete removes the rows of an address of this node.
func (p *policies) delete(a netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.maps.DeleteEndpoint(a); err != nil {
		return err
	}
	for uid, local := range p.local {
		if !slices.Contains(local.addresses, a) {
			continue
		}
		p.setLocal(uid, func(l *localPod) {
			l.addresses = slices.DeleteFunc(l.addresses, func(o netip.Addr) bool { return o == a })
		})
		if len(local.addresses) == 0 {
			delete(p.local, uid)
		}
	}
	p.signal()
	return nil
}

// warn tells the owners of policies that the kernel has no room for, once for each cause.
func (p *policies) warn() {
	lacking := p.table.Lacking()
	for set, err := range lacking {
		if p.warned[set] == err.Error() {
			continue
		}
		p.warned[set] = err.Error()
		for _, name := range set.Names() {
			policy, getErr := p.informers.Networking().V1().NetworkPolicies().Lister().NetworkPolicies(set.Namespace).Get(name)
			if getErr != nil {
				policy = &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: set.Namespace, Name: name}}
			}
			p.event(policy, "NotEnforced", fmt.Sprintf("Node %s denies more than the policy asks for: %v", p.nodeName, err))
		}
		for _, pod := range p.isolated(set) {
			p.podEvent(pod, fmt.Sprintf("Node %s denies more to and from the pod than the policies %s ask for: %v", p.nodeName, strings.Join(set.Names(), ", "), err))
		}
	}
	for set := range p.warned {
		if _, still := lacking[set]; !still {
			delete(p.warned, set)
		}
	}
}

// isolated lists the pods of this node that a set isolates.
func (p *policies) isolated(set desired.PolicySet) []*corev1.Pod {
	all, err := p.informers.Core().V1().Pods().Lister().Pods(set.Namespace).List(labels.Everything())
	if err != nil {
		return nil // a cache without an index is asked row by row: there is no other error
	}
	return slices.DeleteFunc(all, func(pod *corev1.Pod) bool {
		known, ok := p.state.pods[string(pod.UID)]
		id := p.state.identities[known.identity]
		return !ok || !known.local || id == nil || id.egress != set && id.ingress != set
	})
}

func (p *policies) podEvent(pod *corev1.Pod, message string) {
	if p.recorder != nil {
		p.recorder.Event(pod, corev1.EventTypeWarning, "NotEnforced", message)
	}
}

func (p *policies) event(policy *networkingv1.NetworkPolicy, reason, message string) {
	p.logger.Warn(message, "networkpolicy", policy.Namespace+"/"+policy.Name, "reason", reason)
	if p.recorder != nil {
		p.recorder.Event(policy, corev1.EventTypeWarning, reason, message)
	}
}
