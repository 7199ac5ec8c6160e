package reconcile

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// Policies is the desired and the believed state of the tables of policies. It is for one goroutine.
//
// Apply writes in an order that lets no flow pass that neither the old nor the new state allows, and denies none that both
// allow: first what allows more, then who is at an address, then which sets isolate a pod, and last the removal of what allows
// too much. If the kernel has no room for a row, the pods that need it are isolated all the same: they are denied too much,
// and Lacking tells whose policies that concerns.
type Policies struct {
	maps *bpfmap.Maps

	identities numbers[desired.Identity]
	sets       numbers[desired.PolicySet]
	ports      numbers[desired.Ports]

	addresses map[netip.Addr]desired.Identity
	subjects  map[netip.Addr]desired.PolicySubject
	rows      map[desired.PolicySet]desired.PolicyRows

	// What the kernel is believed to have. uses counts the rows that lead to a set of ports.
	actualAddresses map[netip.Addr]uint32
	actualSubjects  map[netip.Addr]bpfmap.EndpointPolicy
	actualRows      map[bpfmap.PolicyKey]uint32
	actualPorts     map[uint32]desired.Ports
	uses            map[uint32]int
	isolation       bool

	// What may differ from the kernel.
	dirtyAddresses map[netip.Addr]struct{}
	dirtySubjects  map[netip.Addr]struct{}
	dirtyRows      map[rowName]struct{}
	unused         map[uint32]struct{} // sets of ports
	// The names of these may be forgotten once nothing of them is in the kernel.
	goneIdentities map[desired.Identity]struct{}
	goneSets       map[desired.PolicySet]struct{}
	// narrowed says that flows in the flow table may not be allowed any more.
	narrowed bool
	// lacking are the sets of which the last Apply could not write a row.
	lacking map[desired.PolicySet]error
	pruned  bool
}

// rowName is a row of a set: for a peer, or for a block where that is valid.
type rowName struct {
	set   desired.PolicySet
	peer  desired.PolicyPeer
	block netip.Prefix
}

// RestorePolicies reads the tables that an earlier process left in the kernel. Its numbers go on to mean the same where the first
// things that are set say so; what is not wanted by then stays until Prune.
func RestorePolicies(m *bpfmap.Maps) (*Policies, error) {
	t := &Policies{
		maps:           m,
		addresses:      map[netip.Addr]desired.Identity{},
		subjects:       map[netip.Addr]desired.PolicySubject{},
		rows:           map[desired.PolicySet]desired.PolicyRows{},
		uses:           map[uint32]int{},
		dirtyAddresses: map[netip.Addr]struct{}{},
		dirtySubjects:  map[netip.Addr]struct{}{},
		dirtyRows:      map[rowName]struct{}{},
		unused:         map[uint32]struct{}{},
		goneIdentities: map[desired.Identity]struct{}{},
		goneSets:       map[desired.PolicySet]struct{}{},
		lacking:        map[desired.PolicySet]error{},
	}
	var errs [5]error
	t.actualAddresses, errs[0] = m.Identities()
	t.actualSubjects, errs[1] = m.EndpointPolicies()
	t.actualRows, errs[2] = m.PolicyRows()
	t.actualPorts, errs[3] = m.Ports()
	t.isolation, errs[4] = m.Isolation()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("restore policies: %w", err)
	}
	t.restoreNumbers()
	return t, nil
}

func (t *Policies) restoreNumbers() {
	identities, sets, ports := map[uint32]struct{}{}, map[uint32]struct{}{}, map[uint32]struct{}{}
	for _, id := range t.actualAddresses {
		identities[id] = struct{}{}
	}
	for _, p := range t.actualSubjects {
		for _, id := range []uint32{p.Egress, p.Ingress} {
			if id != 0 {
				sets[id] = struct{}{}
			}
		}
	}
	for k, id := range t.actualRows {
		sets[k.Set] = struct{}{}
		if !k.Block.IsValid() && k.Peer >= uint32(abi.PeerCount) {
			identities[k.Peer] = struct{}{}
		}
		t.uses[id]++
	}
	for id := range t.actualPorts {
		ports[id] = struct{}{}
		if t.uses[id] == 0 {
			t.unused[id] = struct{}{}
		}
	}
	// Cluster DNS is not at an address of its own.
	delete(identities, uint32(abi.PeerDNS))
	t.identities = restoreNumbers[desired.Identity](uint32(abi.PeerCount), identities)
	t.sets = restoreNumbers[desired.PolicySet](1, sets)
	t.ports = restoreNumbers[desired.Ports](uint32(abi.PortsAll)+1, ports)
	for id, set := range t.actualPorts {
		t.ports.claim(set, id)
	}
	t.ports.of[desired.AllPorts] = uint32(abi.PortsAll)
	t.ports.of[""] = uint32(abi.PortsNone)
}

// SetDNS says which identity cluster DNS has. It must come first.
func (t *Policies) SetDNS(id desired.Identity) { t.identities.of[id] = uint32(abi.PeerDNS) }

// SetAddress says whose an address is; ok is false when it is nobody's.
func (t *Policies) SetAddress(a netip.Addr, id desired.Identity, ok bool) {
	if ok {
		t.addresses[a] = id
		delete(t.goneIdentities, id)
	} else {
		delete(t.addresses, a)
	}
	t.dirtyAddresses[a] = struct{}{}
}

// ForgetIdentity says that no pod has an identity any more, and no row is for it.
func (t *Policies) ForgetIdentity(id desired.Identity) { t.goneIdentities[id] = struct{}{} }

// SetSubject says which sets isolate a pod of this node; ok is false when the pod is gone, and its row is somebody else's to
// remove.
func (t *Policies) SetSubject(a netip.Addr, s desired.PolicySubject, ok bool) {
	if !ok {
		delete(t.subjects, a)
		delete(t.actualSubjects, a)
		delete(t.dirtySubjects, a)
		return
	}
	t.subjects[a] = s
	t.dirtySubjects[a] = struct{}{}
}

// SetRows replaces the rows of a set. Those that are the same cost nothing but the comparison.
func (t *Policies) SetRows(set desired.PolicySet, rows desired.PolicyRows) {
	delete(t.goneSets, set)
	before := t.rows[set]
	t.rows[set] = rows
	differ(before.Peers, rows.Peers, func(p desired.PolicyPeer) { t.dirtyRows[rowName{set: set, peer: p}] = struct{}{} })
	differ(before.Blocks, rows.Blocks, func(b netip.Prefix) { t.dirtyRows[rowName{set: set, block: b}] = struct{}{} })
}

// SetPeer changes one row of a set.
func (t *Policies) SetPeer(set desired.PolicySet, peer desired.PolicyPeer, ports desired.Ports) {
	rows, ok := t.rows[set]
	if !ok || rows.Peers[peer] == ports {
		return
	}
	if ports == "" {
		delete(rows.Peers, peer)
	} else {
		rows.Peers[peer] = ports
	}
	t.dirtyRows[rowName{set: set, peer: peer}] = struct{}{}
}

// DeleteSet removes a set that isolates nobody any more, with its rows.
func (t *Policies) DeleteSet(set desired.PolicySet) {
	t.SetRows(set, desired.PolicyRows{})
	delete(t.rows, set)
	t.goneSets[set] = struct{}{}
}

// differ calls fn for each key that is not in both maps alike.
func differ[K comparable, V comparable](before, now map[K]V, fn func(K)) {
	for k, v := range now {
		if old, ok := before[k]; !ok || old != v {
			fn(k)
		}
	}
	for k := range before {
		if _, ok := now[k]; !ok {
			fn(k)
		}
	}
}

// Subject returns the numbers of a pod of this node, for whoever writes its row.
func (t *Policies) Subject(a netip.Addr) bpfmap.EndpointPolicy {
	s, ok := t.subjects[a]
	if !ok {
		return bpfmap.EndpointPolicy{}
	}
	p := bpfmap.EndpointPolicy{Identity: t.identities.take(s.Identity)}
	if s.Egress.Isolates() {
		p.Egress = t.sets.take(s.Egress)
	}
	if s.Ingress.Isolates() {
		p.Ingress = t.sets.take(s.Ingress)
	}
	return p
}

// Wrote says that a pod's row was written with what Subject returned.
func (t *Policies) Wrote(a netip.Addr, p bpfmap.EndpointPolicy) { t.actualSubjects[a] = p }

// Isolation says whether the programs look at policies at all.
func (t *Policies) Isolation() bool { return t.isolation }

// Lacking returns the sets of which the kernel has not every row, with the reason.
func (t *Policies) Lacking() map[desired.PolicySet]error { return maps.Clone(t.lacking) }

// Apply writes what changed since the last call and what failed in it. The work is in proportion to the change.
func (t *Policies) Apply() error {
	var errs failures
	clear(t.lacking)
	if !t.pruned {
		t.claim()
	}
	t.widenRows(&errs)
	t.putAddresses(&errs)
	t.applySubjects(&errs)
	t.deleteAddresses(&errs)
	t.narrowRows(&errs)
	t.deletePorts(&errs)
	if t.narrowed {
		if err := t.maps.RaiseEpoch(); err != nil {
			errs.add(err)
		} else {
			t.narrowed = false
		}
	}
	t.forget()
	return errs.join()
}

// claim gives what is wanted the numbers that it had, where all who had a number agree on what it means now, and nobody who had
// another one comes to it: for a moment its rows allow what either meaning allows. Others get new numbers, whose rows are complete
// before anybody has them.
func (t *Policies) claim() {
	identities, sets := newVotes[desired.Identity](), newVotes[desired.PolicySet]()
	for a, id := range t.addresses {
		if n, has := t.actualAddresses[a]; has {
			identities.add(n, id)
		}
	}
	for a, s := range t.subjects {
		p := t.actualSubjects[a]
		sets.add(p.Egress, s.Egress)
		sets.add(p.Ingress, s.Ingress)
	}
	identities.elect(&t.identities)
	sets.elect(&t.sets)
}

func (t *Policies) putAddresses(errs *failures) {
	for a := range t.dirtyAddresses {
		id, wanted := t.addresses[a]
		if !wanted {
			continue
		}
		n := t.identities.take(id)
		before, exists := t.actualAddresses[a]
		if !exists || before != n {
			if err := t.maps.PutIdentity(a, n); err != nil {
				errs.add(fmt.Errorf("identity of %s: %w", a, err))
				continue
			}
			t.actualAddresses[a] = n
			t.narrowed = t.narrowed || exists
		}
		delete(t.dirtyAddresses, a)
	}
}

// applySubjects turns on the look at policies before the first pod is isolated, and off after the last one is not any more.
func (t *Policies) applySubjects(errs *failures) {
	isolation := false
	for a := range t.subjects {
		isolation = isolation || t.subjects[a].Egress.Isolates() || t.subjects[a].Ingress.Isolates()
	}
	if isolation && !t.isolation {
		if err := t.maps.SetIsolation(true); err != nil {
			errs.add(err)
			return
		}
		t.isolation = true
	}
	for a := range t.dirtySubjects {
		p := t.Subject(a)
		if before, ok := t.actualSubjects[a]; !ok || before != p {
			written, err := t.maps.SetEndpointPolicy(a, p)
			if err != nil {
				errs.add(fmt.Errorf("policies of %s: %w", a, err))
				continue
			}
			if written {
				t.actualSubjects[a] = p
				t.narrowed = true
			}
		}
		delete(t.dirtySubjects, a)
	}
	if !isolation && t.isolation && len(t.dirtySubjects) == 0 && t.pruned {
		if err := t.maps.SetIsolation(false); err != nil {
			errs.add(err)
			return
		}
		t.isolation = false
	}
}

func (t *Policies) deleteAddresses(errs *failures) {
	for a := range t.dirtyAddresses {
		if _, wanted := t.addresses[a]; wanted {
			continue
		}
		if _, exists := t.actualAddresses[a]; exists {
			if err := t.maps.DeleteIdentity(a); err != nil {
				errs.add(fmt.Errorf("identity of %s: %w", a, err))
				continue
			}
			delete(t.actualAddresses, a)
			t.narrowed = true
		}
		delete(t.dirtyAddresses, a)
	}
}

// forget gives back the numbers of what is gone from the kernel too.
func (t *Policies) forget() {
	if len(t.dirtyRows)+len(t.dirtyAddresses)+len(t.dirtySubjects) > 0 {
		return
	}
	for id := range t.goneIdentities {
		t.identities.drop(id)
	}
	for set := range t.goneSets {
		t.sets.drop(set)
	}
	clear(t.goneIdentities)
	clear(t.goneSets)
}

// Prune removes what RestorePolicies found and nothing has wanted since. It must be called once everything that is wanted was set
// and applied; what it cannot remove stays for the next call.
func (t *Policies) Prune() error {
	var errs failures
	for a := range t.actualAddresses {
		if _, wanted := t.addresses[a]; !wanted {
			t.dirtyAddresses[a] = struct{}{}
		}
	}
	owners := make(map[uint32]desired.PolicySet, len(t.sets.of))
	for set, n := range t.sets.of {
		owners[n] = set
	}
	peers := map[uint32]desired.PolicyPeer{uint32(abi.PeerAny): {Kind: desired.Anybody}, uint32(abi.PeerPod): {Kind: desired.AnyPod}}
	for id, n := range t.identities.of {
		peers[n] = desired.PolicyPeer{Identity: id}
	}
	rows := slices.Collect(maps.Keys(t.actualRows))
	slices.SortFunc(rows, func(a, b bpfmap.PolicyKey) int { return narrowness(a) - narrowness(b) })
	for _, k := range rows {
		set, owned := owners[k.Set]
		peer, known := peers[k.Peer]
		if owned && (known || k.Block.IsValid()) {
			if k.Block.IsValid() {
				peer = desired.PolicyPeer{}
			}
			if _, wanted := t.wanted(rowName{set: set, peer: peer, block: k.Block}); wanted {
				continue
			}
		}
		if err := t.deleteRow(k); err != nil {
			errs.add(err)
		}
	}
	if len(errs.errs) == 0 {
		t.identities.release()
		t.sets.release()
		t.pruned = true
	}
	if err := t.Apply(); err != nil {
		errs.add(err)
	}
	return errs.join()
}
