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
	fresh := t.fresh()
	if t.bulkSlots(fresh) && t.bulkServices(fresh) {
		t.bulkFrontends()
	}
}

// fresh lists the dirty rows of whose services the kernel has nothing. Their slots are not written yet.
func (t *Services) fresh() []*port {
	fresh := make([]*port, 0, len(t.dirty))
	for _, p := range t.dirty {
		if !p.wanted {
			continue
		}
		if s := t.service(p); s.counted < 0 && len(s.slots) == 0 {
			fresh = append(fresh, p)
		}
	}
	return fresh
}

func (t *Services) bulkSlots(fresh []*port) bool {
	rows := make([]bpfmap.Slot, 0, 2*len(fresh))
	for _, p := range fresh {
		for i, b := range p.row.Backends {
			rows = append(rows, bpfmap.Slot{Service: p.kernel.id, Index: uint32(i), Backend: b})
		}
	}
	if t.maps.PutSlots(rows) != nil {
		return false
	}
	for _, p := range fresh {
		p.kernel.slots = slices.Clone(p.row.Backends)
	}
	return true
}

func (t *Services) bulkServices(fresh []*port) bool {
	rows := make([]bpfmap.ServiceRow, 0, len(fresh))
	for _, p := range fresh {
		s := p.kernel
		block, size, err := t.ring(s, p.row, s.slots)
		if err != nil {
			return false
		}
		rows = append(rows, s.next(p.row, len(s.slots), block, size))
		s.ringed = slices.Clone(s.slots)
	}
	if t.maps.PutServices(rows) != nil {
		return false
	}
	for _, p := range fresh {
		p.kernel.counted = len(p.kernel.slots)
	}
	return true
}

func (t *Services) bulkFrontends() {
	rows := make([]bpfmap.FrontendRow, 0, len(t.frontends.dirty))
	fronts := make([]*frontend, 0, len(t.frontends.dirty))
	for _, f := range t.frontends.dirty {
		if len(f.claims) == 0 || f.exists {
			continue
		}
		if target, ok := t.target(f.claims[0], f.place); ok {
			rows, fronts = append(rows, bpfmap.FrontendRow{Frontend: f.Frontend, Target: target}), append(fronts, f)
		}
	}
	if t.maps.PutFrontends(rows) != nil {
		return
	}
	for i, f := range fronts {
		f.target, f.exists = rows[i].Target, true
		t.services.count(f.target, 1)
	}
}
