package reconcile

import (
	"errors"
	"fmt"
	"slices"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// errStillReached keeps a service in the kernel while a frontend that could not be removed leads to it.
var errStillReached = errors.New("a frontend still leads to it")

// frontendTable says which service each address leads to. Two Services may ask for one external IP and port; the one whose
// name sorts first has it, whatever the order in which they came.
type frontendTable struct {
	// all are those that are claimed, or that the kernel has.
	all   map[place]*frontend
	dirty []*frontend
}

type frontend struct {
	place
	// claims are the rows that ask for it, in the order of their names.
	claims []*port
	// exists tells whether the kernel is believed to have it, and target where it leads then.
	exists bool
	target bpfmap.Target
	// restored: the kernel has it from an earlier process, and it was not wanted since.
	restored, dirty bool
}

// place is what tells a frontend from others in the kernel: its address and protocol.
type place struct{ desired.Frontend }

func placeOf(f desired.Frontend) place {
	return place{desired.Frontend{Address: f.Address, Protocol: f.Protocol}}
}

func restoreFrontends(rows map[desired.Frontend]bpfmap.Target) frontendTable {
	t := frontendTable{all: make(map[place]*frontend, len(rows))}
	for f, target := range rows {
		p := placeOf(f)
		t.all[p] = &frontend{place: p, exists: true, target: target, restored: true}
	}
	return t
}

// claim replaces the frontends that a row asks for.
func (t *frontendTable) claim(p *port, before, now []desired.Frontend) {
	byName := func(a, b *port) int { return a.name.Compare(b.name) }
	for _, f := range before {
		front := t.all[placeOf(f)]
		if front == nil {
			continue
		}
		if i, found := slices.BinarySearchFunc(front.claims, p, byName); found {
			front.claims = slices.Delete(front.claims, i, i+1)
			t.mark(front)
		}
	}
	for _, f := range now {
		at := placeOf(f)
		front := t.all[at]
		if front == nil {
			front = &frontend{place: at}
			t.all[at] = front
		}
		if i, found := slices.BinarySearchFunc(front.claims, p, byName); !found {
			front.claims = slices.Insert(front.claims, i, p)
		}
		t.mark(front)
	}
}

func (t *frontendTable) mark(f *frontend) {
	if !f.dirty {
		f.dirty = true
		t.dirty = append(t.dirty, f)
	}
}

// applyFrontends writes the frontends that changed hands, then removes those that nobody claims.
func (t *Services) applyFrontends(errs *failures) {
	for _, f := range t.frontends.dirty {
		if len(f.claims) == 0 {
			continue
		}
		first := f.claims[0]
		target, ok := t.target(first, f.place)
		if !ok {
			continue // why is reported with the service; the frontend stays dirty
		}
		if err := t.writeFrontend(f, target); err != nil {
			t.lacking[first.owner()] = err
			errs.add(fmt.Errorf("frontend %s of %s: %w", f.Address, first.name, err))
			continue
		}
		f.dirty = false
	}
	for _, f := range t.frontends.dirty {
		if len(f.claims) > 0 {
			continue
		}
		if err := t.deleteFrontend(f); err != nil {
			errs.add(fmt.Errorf("frontend %s: %w", f.Address, err))
			continue
		}
		f.dirty = false
	}
	t.frontends.dirty = keepDirty(t.frontends.dirty, func(f *frontend) bool { return f.dirty })
}

// target returns what a place is to lead to when it belongs to a row; false while the kernel lacks one of the services.
func (t *Services) target(of *port, p place) (bpfmap.Target, bool) {
	frontends := of.row.Frontends
	i, found := slices.BinarySearchFunc(frontends, p.Frontend, desired.Frontend.Compare)
	s := of.kernel
	if !found || s == nil || s.counted < 0 {
		return bpfmap.Target{}, false
	}
	f := frontends[i]
	target := bpfmap.Target{Service: s.id, Outside: s.id, Restricted: f.Restricted}
	if !f.Local && !f.LocalOutside {
		return target, true
	}
	name := of.name
	name.Local = true
	local := t.ports[name]
	if local == nil || local.kernel == nil || local.kernel.counted < 0 {
		return target, false
	}
	if f.Local {
		target.Service = local.kernel.id
	}
	if f.LocalOutside {
		target.Outside = local.kernel.id
	}
	return target, true
}

func (t *Services) writeFrontend(f *frontend, target bpfmap.Target) error {
	if !f.exists || f.target != target {
		if err := t.maps.PutFrontend(f.Frontend, target); err != nil {
			return err
		}
		t.services.count(target, 1)
		if f.exists {
			t.services.count(f.target, -1)
		}
	}
	f.exists, f.target, f.restored = true, target, false
	return nil
}

// deleteFrontend takes a frontend out of the kernel, and forgets it unless it is claimed.
func (t *Services) deleteFrontend(f *frontend) error {
	if f.exists {
		if err := t.maps.DeleteFrontend(f.Frontend); err != nil {
			return err
		}
		t.services.count(f.target, -1)
	}
	f.exists, f.restored = false, false
	if len(f.claims) == 0 {
		delete(t.frontends.all, f.place)
	}
	return nil
}
