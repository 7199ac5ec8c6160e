package reconcile

import (
	"maps"
	"slices"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// serviceTable is what the kernel is believed to have of services.
type serviceTable struct {
	ids    ids
	actual map[desired.PortName]*service
	byID   map[uint32]*service
	// orphans are restored and not yet wanted by anybody. Their names are not in the kernel; the frontends that lead to them
	// tell who they are.
	orphans map[uint32]*service
}

type service struct {
	id, revision uint32
	// slots are the backends by slot, as last written. A slot whose write failed is stale: it has the zero Backend, which is
	// never wanted, and so is written again.
	slots []desired.Backend
	// counted is the number of slots that the kernel uses; -1 when it may be any, being new or after a failed write.
	counted int
	// fronts counts the frontends in the kernel that lead here.
	fronts int
}

func restoreServices(kernel bpfmap.ServiceTables) serviceTable {
	t := serviceTable{
		ids:     restoreIDs(slices.Collect(maps.Keys(kernel.Services))),
		actual:  map[desired.PortName]*service{},
		byID:    make(map[uint32]*service, len(kernel.Services)),
		orphans: make(map[uint32]*service, len(kernel.Services)),
	}
	for id, k := range kernel.Services {
		s := &service{id: id, revision: k.Revision, slots: k.Backends, counted: int(k.Slots)}
		t.byID[id], t.orphans[id] = s, s
	}
	for _, id := range kernel.Frontends {
		if s := t.byID[id]; s != nil {
			s.fronts++
		}
	}
	return t
}

// of returns the service for a row: the one it has, else the restored one that its frontends lead to, else a new one.
func (t *serviceTable) of(row desired.Service, frontends *frontendTable) *service {
	if s := t.actual[row.Name]; s != nil {
		return s
	}
	s := t.adopt(row, frontends)
	if s == nil {
		s = &service{id: t.ids.take(), counted: -1}
		t.byID[s.id] = s
	}
	t.actual[row.Name] = s
	return s
}

func (t *serviceTable) adopt(row desired.Service, frontends *frontendTable) *service {
	if len(t.orphans) == 0 {
		return nil
	}
	for _, f := range row.Frontends {
		id, ok := frontends.orphans[placeOf(f)]
		if !ok {
			continue
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

// unref counts a frontend less that leads to the service.
func (t *serviceTable) unref(id uint32) {
	if s := t.byID[id]; s != nil {
		s.fronts--
	}
}

// writeService writes the slots that differ, and then the service.
func (t *Services) writeService(row desired.Service) error {
	s := t.services.of(row, &t.frontends)
	before := slices.Clone(s.slots)
	want := arrange(s.slots, row.Backends)
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
	if changed || s.counted != len(want) {
		s.counted = -1
		s.revision++
		if err := t.maps.PutService(s.id, uint32(len(want)), s.revision); err != nil {
			return err
		}
		s.counted = len(want)
	}
	t.reportRemoved(before, row.Backends)
	// Only now that nobody looks there any more.
	return t.deleteSlots(s, len(want))
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
func (t *Services) deleteService(name desired.PortName) error {
	s := t.services.actual[name]
	if s == nil {
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
	delete(t.services.actual, name)
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
