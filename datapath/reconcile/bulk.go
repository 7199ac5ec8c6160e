package reconcile

import (
	"slices"

	"github.com/skep-io/skep/datapath/bpfmap"
)

// bulkMin is how many rows must be dirty for writing in bulk to be worth its preparation.
const bulkMin = 64

// bulk writes what is new to the kernel, table by table with few system calls, in the order of Apply. It is a shortcut and no
// more: what it cannot write it leaves as it was, for Apply to write row by row and to know which one the kernel refuses.
func (t *Services) bulk() {
	if len(t.dirty) < bulkMin {
		return
	}
	fresh := t.freshServices()
	if t.bulkSlots(fresh) && t.bulkServices(fresh) {
		t.bulkFrontends()
	}
}

// freshServices lists the dirty services of which the kernel has nothing. Their slots are not written yet.
func (t *Services) freshServices() map[*service]struct{} {
	fresh := make(map[*service]struct{}, len(t.dirty))
	for name := range t.dirty {
		row, wanted := t.desired[name]
		if !wanted {
			continue
		}
		if s := t.services.of(t.located(row), &t.frontends); s.counted < 0 && len(s.slots) == 0 {
			fresh[s] = struct{}{}
		}
	}
	return fresh
}

func (t *Services) bulkSlots(fresh map[*service]struct{}) bool {
	rows := make([]bpfmap.Slot, 0, 2*len(fresh))
	for name := range t.dirty {
		s := t.services.actual[name]
		if _, ok := fresh[s]; !ok {
			continue
		}
		for i, b := range t.desired[name].Backends {
			rows = append(rows, bpfmap.Slot{Service: s.id, Index: uint32(i), Backend: b})
		}
	}
	if t.maps.PutSlots(rows) != nil {
		return false
	}
	for name := range t.dirty {
		s := t.services.actual[name]
		if _, ok := fresh[s]; ok {
			s.slots = slices.Clone(t.desired[name].Backends)
		}
	}
	return true
}

func (t *Services) bulkServices(fresh map[*service]struct{}) bool {
	rows := make([]bpfmap.ServiceRow, 0, len(fresh))
	for name := range t.dirty {
		s := t.services.actual[name]
		if _, ok := fresh[s]; !ok {
			continue
		}
		block, size, err := t.ring(s, t.desired[name], s.slots)
		if err != nil {
			return false
		}
		rows = append(rows, s.next(t.desired[name], len(s.slots), block, size))
		s.ringed = slices.Clone(s.slots)
	}
	if t.maps.PutServices(rows) != nil {
		return false
	}
	for s := range fresh {
		s.counted = len(s.slots)
	}
	return true
}

func (t *Services) bulkFrontends() {
	rows := make([]bpfmap.FrontendRow, 0, len(t.frontends.dirty))
	for p := range t.frontends.dirty {
		claims := t.frontends.claims[p]
		if len(claims) == 0 {
			continue
		}
		if _, exists := t.frontends.believed(p); exists {
			continue
		}
		if target, ok := t.target(claims[0], p); ok {
			rows = append(rows, bpfmap.FrontendRow{Frontend: p.Frontend, Target: target})
		}
	}
	if t.maps.PutFrontends(rows) != nil {
		return
	}
	for _, row := range rows {
		t.frontends.actual[place{row.Frontend}] = row.Target
		t.services.count(row.Target, 1)
	}
}
