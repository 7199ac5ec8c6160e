package reconcile

import (
	"errors"
	"fmt"
	"slices"

	"github.com/skep-io/skep/datapath/desired"
)

// errStillReached keeps a service in the kernel while a frontend that could not be removed leads to it.
var errStillReached = errors.New("a frontend still leads to it")

// frontendTable says which service each address leads to. Two Services may ask for one external IP and port; the one whose
// name sorts first has it, whatever the order in which they came.
type frontendTable struct {
	claims map[place][]desired.PortName
	// actual is what the kernel is believed to have; orphans are restored and not yet claimed.
	actual  map[place]uint32
	orphans map[place]uint32
	dirty   map[place]struct{}
}

// place is what tells a frontend from others in the kernel: all but its kind.
type place struct{ desired.Frontend }

func placeOf(f desired.Frontend) place {
	f.Kind = 0
	return place{f}
}

func restoreFrontends(rows map[desired.Frontend]uint32) frontendTable {
	t := frontendTable{
		claims:  map[place][]desired.PortName{},
		actual:  make(map[place]uint32, len(rows)),
		orphans: make(map[place]uint32, len(rows)),
		dirty:   map[place]struct{}{},
	}
	for f, service := range rows {
		t.orphans[placeOf(f)] = service
	}
	return t
}

// claim replaces the frontends that a row asks for.
func (t *frontendTable) claim(name desired.PortName, before, now []desired.Frontend) {
	for _, f := range before {
		p := placeOf(f)
		i, found := slices.BinarySearchFunc(t.claims[p], name, desired.PortName.Compare)
		if !found {
			continue
		}
		t.claims[p] = slices.Delete(t.claims[p], i, i+1)
		if len(t.claims[p]) == 0 {
			delete(t.claims, p)
		}
		t.dirty[p] = struct{}{}
	}
	for _, f := range now {
		p := placeOf(f)
		if i, found := slices.BinarySearchFunc(t.claims[p], name, desired.PortName.Compare); !found {
			t.claims[p] = slices.Insert(t.claims[p], i, name)
		}
		t.dirty[p] = struct{}{}
	}
}

// applyFrontends writes the frontends that changed hands, then removes those that nobody claims.
func (t *Services) applyFrontends(errs *failures) {
	for p := range t.frontends.dirty {
		claims := t.frontends.claims[p]
		if len(claims) == 0 {
			continue
		}
		s := t.services.actual[claims[0]]
		if s == nil || s.counted < 0 {
			continue // why is reported with the service; the frontend stays dirty
		}
		if err := t.writeFrontend(p, s); err != nil {
			errs.add(fmt.Errorf("frontend %s of %s: %w", p.Address, claims[0], err))
			continue
		}
		delete(t.frontends.dirty, p)
	}
	for p := range t.frontends.dirty {
		if len(t.frontends.claims[p]) > 0 {
			continue
		}
		if err := t.deleteFrontend(p); err != nil {
			errs.add(fmt.Errorf("frontend %s: %w", p.Address, err))
			continue
		}
		delete(t.frontends.dirty, p)
	}
}

// believed returns the service that the kernel leads a frontend to.
func (t *frontendTable) believed(p place) (uint32, bool) {
	if id, ok := t.actual[p]; ok {
		return id, true
	}
	id, ok := t.orphans[p]
	return id, ok
}

func (t *Services) writeFrontend(p place, s *service) error {
	before, exists := t.frontends.believed(p)
	if !exists || before != s.id {
		if err := t.maps.PutFrontend(p.Frontend, s.id); err != nil {
			return err
		}
		s.fronts++
		if exists {
			t.services.unref(before)
		}
	}
	delete(t.frontends.orphans, p)
	t.frontends.actual[p] = s.id
	return nil
}

func (t *Services) deleteFrontend(p place) error {
	before, exists := t.frontends.believed(p)
	if !exists {
		return nil
	}
	if err := t.maps.DeleteFrontend(p.Frontend); err != nil {
		return err
	}
	t.services.unref(before)
	delete(t.frontends.actual, p)
	delete(t.frontends.orphans, p)
	return nil
}
