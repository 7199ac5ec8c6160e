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
	claims map[place][]desired.PortName
	// actual is what the kernel is believed to have; orphans are restored and not yet claimed.
	actual  map[place]bpfmap.Target
	orphans map[place]bpfmap.Target
	dirty   map[place]struct{}
}

// place is what tells a frontend from others in the kernel: its address and protocol.
type place struct{ desired.Frontend }

func placeOf(f desired.Frontend) place {
	return place{desired.Frontend{Address: f.Address, Protocol: f.Protocol}}
}

func restoreFrontends(rows map[desired.Frontend]bpfmap.Target) frontendTable {
	t := frontendTable{
		claims:  map[place][]desired.PortName{},
		actual:  make(map[place]bpfmap.Target, len(rows)),
		orphans: make(map[place]bpfmap.Target, len(rows)),
		dirty:   map[place]struct{}{},
	}
	for f, target := range rows {
		t.orphans[placeOf(f)] = target
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
		target, ok := t.target(claims[0], p)
		if !ok {
			continue // why is reported with the service; the frontend stays dirty
		}
		if err := t.writeFrontend(p, target); err != nil {
			t.lacking[Owner{claims[0].Namespace, claims[0].Service}] = err
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

// target returns what a place is to lead to when it belongs to the row of that name; false while the kernel lacks one of the
// services.
func (t *Services) target(name desired.PortName, p place) (bpfmap.Target, bool) {
	frontends := t.desired[name].Frontends
	i, found := slices.BinarySearchFunc(frontends, p.Frontend, desired.Frontend.Compare)
	s := t.services.actual[name]
	if !found || s == nil || s.counted < 0 {
		return bpfmap.Target{}, false
	}
	f := frontends[i]
	target := bpfmap.Target{Service: s.id, Outside: s.id, Restricted: f.Restricted}
	if !f.Local && !f.LocalOutside {
		return target, true
	}
	name.Local = true
	local := t.services.actual[name]
	if local == nil || local.counted < 0 {
		return target, false
	}
	if f.Local {
		target.Service = local.id
	}
	if f.LocalOutside {
		target.Outside = local.id
	}
	return target, true
}

// believed returns what the kernel leads a frontend to.
func (t *frontendTable) believed(p place) (bpfmap.Target, bool) {
	if target, ok := t.actual[p]; ok {
		return target, true
	}
	target, ok := t.orphans[p]
	return target, ok
}

func (t *Services) writeFrontend(p place, target bpfmap.Target) error {
	before, exists := t.frontends.believed(p)
	if !exists || before != target {
		if err := t.maps.PutFrontend(p.Frontend, target); err != nil {
			return err
		}
		t.services.count(target, 1)
		if exists {
			t.services.count(before, -1)
		}
	}
	delete(t.frontends.orphans, p)
	t.frontends.actual[p] = target
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
	t.services.count(before, -1)
	delete(t.frontends.actual, p)
	delete(t.frontends.orphans, p)
	return nil
}
