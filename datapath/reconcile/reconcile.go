// Package reconcile makes the kernel's tables equal to the desired ones. It alone owns the ids in them, and it alone meets the
// kernel's errors.
//
// A Service is in four tables: slots hold the backends to choose from, a service counts its slots, and a frontend leads from
// an address to a service, and source ranges say for whom some frontends are. The order of writing keeps every packet's way whole at every moment: slots before the service that
// counts them before the frontends that lead to it, and deletions the other way round. What the kernel refuses stays pending
// and is tried again by the next Apply; everything that does not depend on it goes on.
package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// Services is the desired and the believed state of the kernel's Service tables. It is for one goroutine.
type Services struct {
	maps *bpfmap.Maps

	// desired are the wanted rows; owned tells which rows came from one Service object.
	desired map[desired.PortName]desired.Service
	owned   map[Owner][]desired.PortName
	// dirty are the rows that the kernel may not have yet as they are wanted, including those no longer wanted.
	dirty map[desired.PortName]struct{}

	services  serviceTable
	frontends frontendTable
	// ranged are the services that may have source ranges in the kernel which are not wanted.
	ranged map[*service][]netip.Prefix
	rings  rings
	// ringless are the services that should have a ring and found no room.
	ringless map[*service]struct{}
	// removed is told of each UDP backend that left a service's slots; it may be nil.
	removed func(netip.AddrPort)
	// lacking are the Service objects of which the last Apply could not write all, with one cause each.
	lacking map[Owner]error
}

// Owner is the Service object that rows come from.
type Owner struct{ Namespace, Name string }

// Restore reads the tables that an earlier process left in the kernel, so that its ids go on to mean the same and live
// connections do not move. What is restored stays in the kernel until Prune. removed, unless nil, is told of each UDP backend
// that leaves a Service: with TCP a connection ends when its server does, but a datagram flow would go on into the void.
func Restore(m *bpfmap.Maps, removed func(netip.AddrPort)) (*Services, error) {
	kernel, err := m.Services()
	if err != nil {
		return nil, fmt.Errorf("restore services: %w", err)
	}
	ranges, err := m.SourceRanges()
	if err != nil {
		return nil, fmt.Errorf("restore source ranges: %w", err)
	}
	t := &Services{
		maps:      m,
		ringless:  map[*service]struct{}{},
		ranged:    map[*service][]netip.Prefix{},
		removed:   removed,
		desired:   map[desired.PortName]desired.Service{},
		owned:     map[Owner][]desired.PortName{},
		dirty:     map[desired.PortName]struct{}{},
		services:  restoreServices(kernel, ranges),
		frontends: restoreFrontends(kernel.Frontends),
	}
	t.rings.restore(t.services.byID)
	return t, nil
}

// Set replaces the rows that come from one Service object; none removes them. It only notes what changed: Apply does the work.
func (t *Services) Set(owner Owner, rows []desired.Service) {
	before := t.owned[owner]
	names := make([]desired.PortName, 0, len(rows))
	for _, row := range rows {
		names = append(names, row.Name)
		old, exists := t.desired[row.Name]
		if exists && old.Equal(row) {
			continue
		}
		t.desired[row.Name] = row
		t.dirty[row.Name] = struct{}{}
		t.frontends.claim(row.Name, old.Frontends, row.Frontends)
	}
	for _, name := range before {
		if slices.Contains(names, name) {
			continue
		}
		t.frontends.claim(name, t.desired[name].Frontends, nil)
		delete(t.desired, name)
		t.dirty[name] = struct{}{}
	}
	if len(names) == 0 {
		delete(t.owned, owner)
		return
	}
	t.owned[owner] = names
}

// IDs returns the ids of the services that one Service object has in the kernel.
func (t *Services) IDs(owner Owner) []uint32 {
	var ids []uint32
	for _, name := range t.owned[owner] {
		if s := t.services.actual[name]; s != nil {
			ids = append(ids, s.id)
		}
	}
	return ids
}

// Pending says whether the kernel still lacks something that was Set.
func (t *Services) Pending() bool { return len(t.dirty)+len(t.frontends.dirty)+len(t.ranged) > 0 }

// Apply writes what changed since the last call and what failed in it. The work is in proportion to the change. The error
// joins at most ten causes; what they concern stays pending.
func (t *Services) Apply() error {
	var errs failures
	t.lacking = map[Owner]error{}
	t.bulk()
	// 1 and 2: slots, then the service that counts them. Until both are written no frontend may lead there.
	for name := range t.dirty {
		row, wanted := t.desired[name]
		if !wanted {
			continue
		}
		if err := t.writeService(row); err != nil {
			t.lacking[Owner{name.Namespace, name.Service}] = err
			errs.add(fmt.Errorf("service %s: %w", name, err))
			continue
		}
		delete(t.dirty, name)
	}
	// 3 and 4: frontends that are wanted, then those that are not.
	t.applyFrontends(&errs)
	// 5: sources that a service is no longer for. The frontends know by now whether they are restricted.
	t.dropRanges(&errs)
	// 6: services to which no frontend leads any more. One whose frontend could not be removed waits for the next time.
	for name := range t.dirty {
		if _, wanted := t.desired[name]; wanted {
			continue
		}
		if err := t.deleteService(name); err != nil {
			errs.add(fmt.Errorf("service %s: %w", name, err))
			continue
		}
		delete(t.dirty, name)
	}
	// Ranging over a map takes as long as it was ever large.
	if !t.Pending() {
		t.dirty, t.frontends.dirty = map[desired.PortName]struct{}{}, map[place]struct{}{}
	}
	return errs.join()
}

// Lacking are the Service objects of which the last Apply could not write all to the kernel, with one cause each.
func (t *Services) Lacking() map[Owner]error { return t.lacking }

// Prune removes what Restore found and nothing has wanted since. It must be called once everything that is wanted was Set and
// Applied. What it cannot remove stays for the next call.
func (t *Services) Prune() error {
	var errs failures
	for p, target := range t.frontends.orphans {
		if err := t.maps.DeleteFrontend(p.Frontend); err != nil {
			errs.add(fmt.Errorf("frontend %s: %w", p.Address, err))
			continue
		}
		t.services.count(target, -1)
		delete(t.frontends.orphans, p)
	}
	for _, s := range t.services.orphans {
		if s.fronts > 0 {
			continue
		}
		if err := t.erase(s); err != nil {
			errs.add(fmt.Errorf("service id %d: %w", s.id, err))
		}
	}
	return errs.join()
}

// Size is the number of rows that the kernel is believed to have.
type Size struct{ Frontends, Services, Slots int }

// Size counts the rows of each table.
func (t *Services) Size() Size {
	size := Size{
		Frontends: len(t.frontends.actual) + len(t.frontends.orphans),
		Services:  len(t.services.byID),
	}
	for _, s := range t.services.byID {
		size.Slots += len(s.slots)
	}
	return size
}

// failures collects errors, but not ten thousand of the same kind when a map is full.
type failures struct {
	errs []error
	more int
}

func (f *failures) add(err error) {
	if len(f.errs) == 10 {
		f.more++
		return
	}
	f.errs = append(f.errs, err)
}

func (f *failures) join() error {
	if f.more > 0 {
		f.errs = append(f.errs, fmt.Errorf("and %d more", f.more))
	}
	return errors.Join(f.errs...)
}
