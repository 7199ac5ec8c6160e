package datapath

import (
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/reconcile"
	"github.com/skep-io/skep/datapath/translate"
)

// policyState follows the objects that policies rest on and tells the table which rows are others now. What it tells depends
// only on the objects that there are; that it remembers them is to look only at what a change concerns. It is for one goroutine.
type policyState struct {
	table *reconcile.Policies

	namespaces map[string]labels.Set
	policies   map[string]map[string]*translate.Policy // by namespace and name
	pods       map[string]policyPod                    // by UID
	owners     map[netip.Addr][]string                 // UIDs of the pods that have an address, the last one counts
	identities map[desired.Identity]*identity
	sets       map[desired.PolicySet]*policySet
}

// policyPod is a pod of the cluster.
type policyPod struct {
	identity  desired.Identity
	addresses []netip.Addr
	local     bool
}

// identity are all pods that are one to policies.
type identity struct {
	labels labels.Set
	// pods counts all, subjects those of this node.
	pods, subjects int
	// egress and ingress isolate the subjects; they are valid while there are any.
	egress, ingress desired.PolicySet
}

// policySet is a set that isolates pods of this node.
type policySet struct {
	identities int // that it isolates
	rules      translate.PolicyRules
}

func newPolicyState(table *reconcile.Policies) *policyState {
	s := &policyState{
		table:      table,
		namespaces: map[string]labels.Set{},
		policies:   map[string]map[string]*translate.Policy{},
		pods:       map[string]policyPod{},
		owners:     map[netip.Addr][]string{},
		identities: map[desired.Identity]*identity{},
		sets:       map[desired.PolicySet]*policySet{},
	}
	dns := translate.ClusterDNS()
	table.SetDNS(dns)
	s.identity(dns).pods++ // for ever
	return s
}

// setPod says what a pod is and has now. A pod without addresses is one that is not here.
func (s *policyState) setPod(uid string, p policyPod) {
	before, existed := s.pods[uid]
	if existed && before.identity == p.identity && before.local == p.local && slices.Equal(before.addresses, p.addresses) {
		return
	}
	// The new identity first, so that one that stays is not forgotten and made anew.
	if len(p.addresses) > 0 {
		s.pods[uid] = p
		id := s.identity(p.identity)
		id.pods++
		if p.local {
			id.subjects++
		}
	} else {
		delete(s.pods, uid)
	}
	for _, a := range before.addresses {
		if !slices.Contains(p.addresses, a) {
			s.disown(a, uid)
		}
	}
	for _, a := range p.addresses {
		s.own(a, uid)
	}
	if p.local && len(p.addresses) > 0 {
		s.isolate(p.identity)
	}
	if existed {
		s.leave(before)
	}
}

// own makes a pod the owner of an address: an address is given out again only when its pod is gone, whatever the order of news.
func (s *policyState) own(a netip.Addr, uid string) {
	if !slices.Contains(s.owners[a], uid) {
		s.owners[a] = append(s.owners[a], uid)
	}
	s.address(a)
}

func (s *policyState) disown(a netip.Addr, uid string) {
	s.owners[a] = slices.DeleteFunc(s.owners[a], func(o string) bool { return o == uid })
	if len(s.owners[a]) == 0 {
		delete(s.owners, a)
	}
	s.address(a)
}

// address tells the table whose an address is.
func (s *policyState) address(a netip.Addr) {
	owners := s.owners[a]
	if len(owners) == 0 {
		s.table.SetAddress(a, desired.Identity{}, false)
		s.table.SetSubject(a, desired.PolicySubject{}, false)
		return
	}
	// A pod of this node was given its address by this node.
	uid := owners[len(owners)-1]
	for _, o := range owners {
		if s.pods[o].local {
			uid = o
		}
	}
	p := s.pods[uid]
	s.table.SetAddress(a, p.identity, true)
	if !p.local {
		s.table.SetSubject(a, desired.PolicySubject{}, false)
		return
	}
	id := s.identities[p.identity]
	s.table.SetSubject(a, desired.PolicySubject{Identity: p.identity, Egress: id.egress, Ingress: id.ingress}, true)
}

// leave counts a pod less of an identity.
func (s *policyState) leave(p policyPod) {
	id := s.identities[p.identity]
	if p.local {
		id.subjects--
		if id.subjects == 0 {
			s.unref(id.egress)
			s.unref(id.ingress)
			id.egress, id.ingress = desired.PolicySet{}, desired.PolicySet{}
		}
	}
	id.pods--
	if id.pods > 0 {
		return
	}
	delete(s.identities, p.identity)
	for set := range s.sets {
		s.table.SetPeer(set, desired.PolicyPeer{Identity: p.identity}, "")
	}
	s.table.ForgetIdentity(p.identity)
}

// identity returns the pods of an identity; a new one becomes a peer of all sets.
func (s *policyState) identity(key desired.Identity) *identity {
	if id := s.identities[key]; id != nil {
		return id
	}
	set, _ := labels.ConvertSelectorToLabelsMap(key.Labels) // labels of an object are a valid selector
	id := &identity{labels: set}
	s.identities[key] = id
	for name, set := range s.sets {
		s.table.SetPeer(name, desired.PolicyPeer{Identity: key}, s.peer(set, key))
	}
	return id
}

func (s *policyState) peer(set *policySet, key desired.Identity) desired.Ports {
	return set.rules.Peer(key, s.identities[key].labels, s.namespaces[key.Namespace])
}

// setPolicy says what a policy is now; nil: it is gone.
func (s *policyState) setPolicy(namespace, name string, p *translate.Policy) {
	if p == nil {
		delete(s.policies[namespace], name)
	} else {
		if s.policies[namespace] == nil {
			s.policies[namespace] = map[string]*translate.Policy{}
		}
		s.policies[namespace][name] = p
	}
	// A set goes on to mean the same policies: its rows change in their place.
	for set, held := range s.sets {
		if set.Namespace == namespace && slices.Contains(set.Names(), name) && p != nil {
			held.rules = s.rules(set)
			s.table.SetRows(set, s.rows(held))
		}
	}
	for key, id := range s.identities {
		if key.Namespace == namespace && id.subjects > 0 {
			s.isolate(key)
		}
	}
}

// setNamespace says what labels a namespace has.
func (s *policyState) setNamespace(name string, set labels.Set) {
	if labels.Equals(s.namespaces[name], set) {
		return
	}
	if set == nil {
		delete(s.namespaces, name)
	} else {
		s.namespaces[name] = set
	}
	for key := range s.identities {
		if key.Namespace != name {
			continue
		}
		for set, held := range s.sets {
			s.table.SetPeer(set, desired.PolicyPeer{Identity: key}, s.peer(held, key))
		}
	}
}

// isolate looks up which sets isolate the subjects of an identity.
func (s *policyState) isolate(key desired.Identity) {
	id := s.identities[key]
	policies := slices.Collect(maps.Values(s.policies[key.Namespace]))
	egress, ingress := translate.PolicySets(policies, key, id.labels)
	if egress == id.egress && ingress == id.ingress {
		return
	}
	before := []desired.PolicySet{id.egress, id.ingress}
	s.ref(egress)
	s.ref(ingress)
	id.egress, id.ingress = egress, ingress
	for _, p := range s.pods {
		if p.local && p.identity == key {
			for _, a := range p.addresses {
				s.address(a)
			}
		}
	}
	for _, set := range before {
		s.unref(set)
	}
}

func (s *policyState) ref(name desired.PolicySet) {
	if !name.Isolates() {
		return
	}
	set := s.sets[name]
	if set == nil {
		set = &policySet{rules: s.rules(name)}
		s.sets[name] = set
		s.table.SetRows(name, s.rows(set))
	}
	set.identities++
}

func (s *policyState) unref(name desired.PolicySet) {
	set := s.sets[name]
	if set == nil {
		return
	}
	set.identities--
	if set.identities == 0 {
		delete(s.sets, name)
		s.table.DeleteSet(name)
	}
}

func (s *policyState) rules(name desired.PolicySet) translate.PolicyRules {
	return translate.Rules(name, slices.Collect(maps.Values(s.policies[name.Namespace])))
}

func (s *policyState) rows(set *policySet) desired.PolicyRows {
	rows := desired.PolicyRows{Peers: set.rules.Wide(), Blocks: set.rules.Blocks()}
	for key := range s.identities {
		if ports := s.peer(set, key); ports != "" {
			rows.Peers[desired.PolicyPeer{Identity: key}] = ports
		}
	}
	return rows
}
