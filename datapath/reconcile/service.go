package reconcile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// serviceTable is what the kernel is believed to have of services.
type serviceTable struct {
	ids  ids
	byID map[uint32]*service
	// orphans are restored and not yet wanted by anybody. Their names are not in the kernel; the frontends that lead to them
	// tell who they are.
	orphans map[uint32]*service
	// names tells others whose the ids are.
	names *names
}

type service struct {
	id uint32
	// row is what the kernel was last told, but for its count of slots.
	row bpfmap.ServiceRow
	// slots are the backends by slot, as last written. A slot whose write failed is stale: it has the zero Backend, which is
	// never wanted, and so is written again.
	slots []desired.Backend
	// counted is the number of slots that the kernel uses; -1 when it may be any, being new or after a failed write.
	counted int
	// fronts counts the frontends in the kernel that lead here.
	fronts int
	// ringed are the slots that its ring was made for; nil: not known.
	ringed []desired.Backend
	// ranges are the sources in the kernel.
	ranges []netip.Prefix
}

func restoreServices(kernel bpfmap.ServiceTables, ranges map[uint32][]netip.Prefix) serviceTable {
	// A process may have died while it erased a service.
	for id := range ranges {
		if _, exists := kernel.Services[id]; !exists {
			kernel.Services[id] = bpfmap.Service{Row: bpfmap.ServiceRow{ID: id}}
		}
	}
	t := serviceTable{
		ids:     restoreIDs(slices.Collect(maps.Keys(kernel.Services))),
		byID:    make(map[uint32]*service, len(kernel.Services)),
		orphans: make(map[uint32]*service, len(kernel.Services)),
		names:   &names{of: map[uint32]desired.PortName{}},
	}
	for id, k := range kernel.Services {
		s := &service{id: id, row: k.Row, slots: k.Backends, counted: int(k.Row.Slots), ranges: ranges[id]}
		t.byID[id], t.orphans[id] = s, s
	}
	for _, target := range kernel.Frontends {
		t.count(target, 1)
	}
	return t
}

// service returns the service for a row: the one it has, else the restored one that its frontends lead to, else a new one.
func (t *Services) service(p *port) *service {
	if p.kernel != nil {
		return p.kernel
	}
	s := t.services.adopt(t.located(p.row), &t.frontends)
	if s == nil {
		s = &service{id: t.services.ids.take(), counted: -1}
		s.row.ID = s.id
		t.services.byID[s.id] = s
	}
	p.kernel = s
	t.services.names.put(s.id, p.row.Name)
	return s
}

// adopt finds the restored service that the row's frontends lead to. A local row has none of its own: it is found by those of
// the other.
func (t *serviceTable) adopt(row desired.Service, frontends *frontendTable) *service {
	if len(t.orphans) == 0 {
		return nil
	}
	for _, f := range row.Frontends {
		front := frontends.all[placeOf(f)]
		if front == nil || !front.exists {
			continue
		}
		id := front.target.Service
		if f.Local != row.Name.Local {
			id = front.target.Outside
		}
		s := t.orphans[id]
		if s == nil {
			continue
		}
		delete(t.orphans, id)
		// The kernel's slots do not tell the protocol; it is the frontends'.
		for i := range s.slots {
			if s.slots[i] != (desired.Backend{}) {
				s.slots[i].Protocol = f.Protocol
			}
		}
		return s
	}
	return nil
}

// count counts a frontend that leads there, or, with -1, does so no more.
func (t *serviceTable) count(target bpfmap.Target, n int) {
	for _, id := range []uint32{target.Service, target.Outside} {
		if s := t.byID[id]; s != nil {
			s.fronts += n
		}
	}
}

// writeService writes the slots that differ, and then the service.
func (t *Services) writeService(p *port) error {
	s, row := t.service(p), p.row
	if err := t.addRanges(s, row.SourceRanges); err != nil {
		return err
	}
	want, before := row.Backends, row.Backends
	if !slices.Equal(s.slots, want) {
		want, before = arrange(s.slots, want), slices.Clone(s.slots)
	}
	changed := false
	for i, b := range want {
		switch {
		case i < len(s.slots) && s.slots[i] == b:
			continue
		case i == len(s.slots):
			s.slots = append(s.slots, desired.Backend{})
		}
		changed = true
		s.slots[i] = desired.Backend{} // until the write is known to be done
		if err := t.maps.PutSlot(s.id, uint32(i), b); err != nil {
			return err
		}
		s.slots[i] = b
	}
	block, size, err := t.ring(s, row, want)
	if err != nil {
		return err
	}
	if changed || s.counted != len(want) || s.row.Affinity != row.Affinity || s.row.Silent != row.Silent || s.row.Least != row.Least || s.row.DSR != row.DSR || s.row.Ring != block || s.row.RingSize != size {
		s.counted = -1
		oldBlock, oldSize := s.row.Ring, s.row.RingSize
		if err := t.maps.PutService(s.next(row, len(want), block, size)); err != nil {
			s.row.Ring, s.row.RingSize = oldBlock, oldSize
			t.release(block, size, s)
			return err
		}
		s.counted = len(want)
		if block != oldBlock || size == 0 {
			t.rings.mark(oldBlock, oldSize, false)
		}
		s.ringed = slices.Clone(want)
	}
	t.reportRemoved(before, row.Backends)
	// Only now that nobody looks there any more.
	return t.deleteSlots(s, len(want))
}

// located gives a local row the frontends by which the kernel knows it: those of the other.
func (t *Services) located(row desired.Service) desired.Service {
	if row.Name.Local {
		all := row.Name
		all.Local = false
		if p := t.ports[all]; p != nil {
			row.Frontends = p.row.Frontends
		}
	}
	return row
}

// next is the row to write now that a service has so many slots.
func (s *service) next(row desired.Service, slots int, ring, ringSize uint32) bpfmap.ServiceRow {
	s.row.Slots, s.row.Affinity, s.row.Silent = uint32(slots), row.Affinity, row.Silent
	s.row.Least, s.row.DSR, s.row.Ring, s.row.RingSize = row.Least, row.DSR, ring, ringSize
	s.row.Revision++
	return s.row
}

// addRanges writes the sources that are new. The others go once no frontend asks for them: see dropRanges.
func (t *Services) addRanges(s *service, want []netip.Prefix) error {
	for _, r := range want {
		if slices.Contains(s.ranges, r) {
			continue
		}
		if err := t.maps.PutSourceRange(s.id, r); err != nil {
			return err
		}
		s.ranges = append(s.ranges, r)
	}
	delete(t.ranged, s)
	if len(s.ranges) > len(want) {
		t.ranged[s] = want
	}
	return nil
}

// dropRanges deletes the sources that are not wanted any more.
func (t *Services) dropRanges(errs *failures) {
	for s, want := range t.ranged {
		if err := t.keepRanges(s, want); err != nil {
			errs.add(fmt.Errorf("source ranges of service id %d: %w", s.id, err))
			continue
		}
		delete(t.ranged, s)
	}
}

func (t *Services) keepRanges(s *service, want []netip.Prefix) error {
	for _, r := range slices.Clone(s.ranges) {
		if slices.Contains(want, r) {
			continue
		}
		if err := t.maps.DeleteSourceRange(s.id, r); err != nil {
			return err
		}
		s.ranges = slices.DeleteFunc(s.ranges, func(p netip.Prefix) bool { return p == r })
	}
	return nil
}

// reportRemoved tells of the UDP backends that are in before but not in now. No new flow chooses them any more.
func (t *Services) reportRemoved(before, now []desired.Backend) {
	if t.removed == nil {
		return
	}
	for _, b := range before {
		if b.Protocol == desired.UDP && !slices.Contains(now, b) {
			t.removed(b.Address)
		}
	}
}

// deleteSlots deletes a service's slots from the last one down to keep.
func (t *Services) deleteSlots(s *service, keep int) error {
	for len(s.slots) > keep {
		last := len(s.slots) - 1
		if err := t.maps.DeleteSlot(s.id, uint32(last)); err != nil {
			return err
		}
		s.slots = s.slots[:last]
	}
	return nil
}

// deleteService deletes a service that is not wanted, once no frontend leads to it.
func (t *Services) deleteService(p *port) error {
	s := p.kernel
	if s == nil {
		delete(t.ports, p.name)
		return nil
	}
	if s.fronts > 0 {
		return errStillReached
	}
	before := slices.Clone(s.slots)
	if err := t.erase(s); err != nil {
		return err
	}
	t.reportRemoved(before, nil)
	delete(t.ports, p.name)
	return nil
}

// erase takes a service that nothing leads to out of the kernel, its count before its slots, and frees its id.
func (t *Services) erase(s *service) error {
	s.counted = -1
	if err := t.maps.DeleteService(s.id); err != nil {
		return err
	}
	if err := t.deleteSlots(s, 0); err != nil {
		return err
	}
	if err := t.keepRanges(s, nil); err != nil {
		return err
	}
	delete(t.ranged, s)
	delete(t.ringless, s)
	t.rings.mark(s.row.Ring, s.row.RingSize, false)
	t.services.names.delete(s.id)
	if err := t.maps.DeleteTraffic(s.id); err != nil {
		return err
	}
	delete(t.services.byID, s.id)
	delete(t.services.orphans, s.id)
	t.services.ids.give(s.id)
	return nil
}

// arrange puts the wanted backends into slots with as few changes as can be: those that are there stay, new ones take the
// places of those that go, and places left over are filled from the end.
func arrange(have, want []desired.Backend) []desired.Backend {
	missing := make(map[desired.Backend]struct{}, len(want))
	for _, b := range want {
		missing[b] = struct{}{}
	}
	slots := make([]desired.Backend, len(want))
	var displaced []desired.Backend
	for i, b := range have {
		if _, wanted := missing[b]; !wanted {
			continue
		}
		delete(missing, b)
		if i < len(slots) {
			slots[i] = b
			continue
		}
		displaced = append(displaced, b)
	}
	// In the order of want, so that the result does not depend on the map's.
	for _, b := range want {
		if _, isNew := missing[b]; isNew {
			displaced = append(displaced, b)
		}
	}
	for i := range slots {
		if slots[i] == (desired.Backend{}) {
			slots[i], displaced = displaced[0], displaced[1:]
		}
	}
	return slots
}
