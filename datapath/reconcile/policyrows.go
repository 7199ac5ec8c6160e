package reconcile

import (
	"fmt"
	"maps"
	"slices"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

func (t *Policies) wanted(r rowName) (desired.Ports, bool) {
	if r.block.IsValid() {
		p, ok := t.rows[r.set].Blocks[r.block]
		return p, ok
	}
	p, ok := t.rows[r.set].Peers[r.peer]
	return p, ok
}

func (t *Policies) key(r rowName) bpfmap.PolicyKey {
	k := bpfmap.PolicyKey{Set: t.sets.take(r.set), Block: r.block}
	switch {
	case r.block.IsValid():
	case r.peer.Kind == desired.PodsOf:
		k.Peer = t.identities.take(r.peer.Identity)
	case r.peer.Kind == desired.AnyPod:
		k.Peer = uint32(abi.PeerPod)
	default:
		k.Peer = uint32(abi.PeerAny)
	}
	return k
}

// narrowness orders rows: of two that apply to one address the kernel takes the one with the greater.
func narrowness(k bpfmap.PolicyKey) int {
	switch {
	case k.Block.Addr().Is4():
		return 3 + 96 + k.Block.Bits()
	case k.Block.IsValid():
		return 3 + k.Block.Bits()
	case k.Peer == uint32(abi.PeerAny):
		return 0
	case k.Peer == uint32(abi.PeerPod):
		return 1
	}
	return 2
}

// changes are the rows to look at, the narrowest first.
func (t *Policies) changes() []rowName {
	rows := slices.Collect(maps.Keys(t.dirtyRows))
	slices.SortFunc(rows, func(a, b rowName) int { return narrowness(t.key(b)) - narrowness(t.key(a)) })
	return rows
}

// widenRows lets rows allow what they shall beside what is allowed until now, also those that are to go: they hide what wider
// rows shall allow. The narrowest come first: a wide one that came before
// the narrow ones within it would for a moment decide about their addresses too.
func (t *Policies) widenRows(errs *failures) {
	for _, r := range t.changes() {
		k := t.key(r)
		if _, exists := t.actualRows[k]; !exists {
			if _, wanted := t.wanted(r); !wanted {
				delete(t.dirtyRows, r)
				continue
			}
		}
		ports, wanted := t.goal(r)
		until := ports.Union(t.until(k))
		if err := t.putRow(k, until); err != nil {
			t.lacking[r.set] = err
			errs.add(fmt.Errorf("policy set %s: %w", r.set, err))
			continue
		}
		if until == ports && wanted {
			delete(t.dirtyRows, r)
		}
	}
}

// goal is what shall be allowed to those for whom a row is, and whether that row says so itself.
func (t *Policies) goal(r rowName) (ports desired.Ports, itself bool) {
	if ports, itself = t.wanted(r); itself {
		return ports, true
	}
	if r.block.IsValid() {
		for bits := r.block.Bits() - 1; bits >= 0; bits-- {
			r.block, _ = r.block.Addr().Prefix(bits)
			if ports, ok := t.wanted(r); ok {
				return ports, false
			}
		}
		r = rowName{set: r.set, peer: desired.PolicyPeer{Kind: desired.Anybody}}
	} else if r.peer.Kind == desired.PodsOf {
		r.peer = desired.PolicyPeer{Kind: desired.AnyPod}
		if ports, ok := t.wanted(r); ok {
			return ports, false
		}
	}
	r.peer = desired.PolicyPeer{Kind: desired.Anybody}
	ports, _ = t.wanted(r)
	return ports, false
}

// until is what is allowed until now to those for whom a row is.
func (t *Policies) until(k bpfmap.PolicyKey) desired.Ports {
	wider := k
	for wide := true; wide; wider, wide = widen(wider) {
		if id, exists := t.actualRows[wider]; exists {
			return bpfmap.PortsOf(id, t.actualPorts)
		}
	}
	return ""
}

// widen is the next row that decides where there is none of a key, if any.
func widen(k bpfmap.PolicyKey) (bpfmap.PolicyKey, bool) {
	switch {
	case k.Block.IsValid() && k.Block.Bits() > 0:
		k.Block, _ = k.Block.Addr().Prefix(k.Block.Bits() - 1)
		return k, true
	case k.Block.IsValid():
		return bpfmap.PolicyKey{Set: k.Set}, true
	case k.Peer == uint32(abi.PeerAny):
		return k, false
	case k.Peer == uint32(abi.PeerPod):
		k.Peer = uint32(abi.PeerAny)
		return k, true
	}
	k.Peer = uint32(abi.PeerPod)
	return k, true
}

func (t *Policies) putRow(k bpfmap.PolicyKey, ports desired.Ports) error {
	id := t.ports.take(ports)
	before, exists := t.actualRows[k]
	if exists && before == id {
		return nil
	}
	if _, written := t.actualPorts[id]; !written && id > uint32(abi.PortsAll) {
		// Noted first: what is written in part has to be removed, too.
		t.unused[id] = struct{}{}
		if err := t.maps.PutPorts(id, ports); err != nil {
			return err
		}
		t.actualPorts[id] = ports
	}
	if err := t.maps.PutPolicy(k, id); err != nil {
		t.release(id, 0)
		return err
	}
	t.actualRows[k] = id
	t.uses[id]++
	delete(t.unused, id)
	if exists {
		t.release(before, 1)
	}
	return nil
}

// release counts uses less of a set of ports.
func (t *Policies) release(id uint32, uses int) {
	t.uses[id] -= uses
	if t.uses[id] <= 0 {
		delete(t.uses, id)
		if id > uint32(abi.PortsAll) {
			t.unused[id] = struct{}{}
		}
	}
}

// narrowRows takes away what rows shall not allow any more. The widest come first: what a narrow row leaves behind must not fall to
// a wide one that allows too much itself. It waits while rows of the same set could not be written: what is to be removed may
// be what they replace.
func (t *Policies) narrowRows(errs *failures) {
	for _, r := range slices.Backward(t.changes()) {
		if t.lacking[r.set] != nil {
			continue
		}
		err := t.narrowRow(r)
		if err != nil {
			errs.add(fmt.Errorf("policy set %s: %w", r.set, err))
			continue
		}
		delete(t.dirtyRows, r)
	}
}

func (t *Policies) narrowRow(r rowName) error {
	ports, wanted := t.wanted(r)
	if !wanted {
		return t.deleteRow(t.key(r))
	}
	if err := t.putRow(t.key(r), ports); err != nil {
		t.lacking[r.set] = err
		return err
	}
	t.narrowed = true
	return nil
}

func (t *Policies) deleteRow(k bpfmap.PolicyKey) error {
	id, exists := t.actualRows[k]
	if !exists {
		return nil
	}
	if err := t.maps.DeletePolicy(k); err != nil {
		return err
	}
	delete(t.actualRows, k)
	t.release(id, 1)
	t.narrowed = true
	return nil
}

func (t *Policies) deletePorts(errs *failures) {
	for id := range t.unused {
		ports, written := t.actualPorts[id]
		if !written {
			ports, written = t.ports.name(id)
		}
		if written {
			if err := t.maps.DeletePorts(id, ports); err != nil {
				errs.add(fmt.Errorf("ports %s: %w", ports, err))
				continue
			}
			delete(t.actualPorts, id)
			t.ports.drop(ports)
		}
		delete(t.unused, id)
	}
}
