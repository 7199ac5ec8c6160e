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

	// ports are all rows that are wanted, or that the kernel has; owned tells which wanted ones came from one Service object.
	ports map[desired.PortName]*port
	owned map[Owner][]*port
	// dirty are the rows that the kernel may not have yet as they are wanted, including those no longer wanted.
	dirty []*port

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

// port is a row: what is wanted of a Service port in a family, and what the kernel has of it.
type port struct {
	name desired.PortName
	// row is the zero row where it is not wanted.
	row           desired.Service
	wanted, dirty bool
	// kernel is nil where the kernel has nothing.
	kernel *service
}

// owner is the Service object that the row comes from.
func (p *port) owner() Owner { return Owner{p.name.Namespace, p.name.Service} }

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
		ports:     map[desired.PortName]*port{},
		owned:     map[Owner][]*port{},
		services:  restoreServices(kernel, ranges),
		frontends: restoreFrontends(kernel.Frontends),
	}
	t.rings.restore(t.services.byID)
	return t, nil
}

// Set replaces the rows that come from one Service object; none removes them. It only notes what changed: Apply does the work.
func (t *Services) Set(owner Owner, rows []desired.Service) {
	before := t.owned[owner]
	now := make([]*port, 0, len(rows))
	for _, row := range rows {
		p := t.ports[row.Name]
		if p == nil {
			p = &port{name: row.Name}
			t.ports[row.Name] = p
		}
		now = append(now, p)
		if p.wanted && p.row.Equal(row) {
			continue
		}
		t.frontends.claim(p, p.row.Frontends, row.Frontends)
		p.row, p.wanted = row, true
		t.mark(p)
	}
	for _, p := range before {
		if slices.Contains(now, p) {
			continue
		}
		t.frontends.claim(p, p.row.Frontends, nil)
		p.row, p.wanted = desired.Service{}, false
		t.mark(p)
	}
	if len(now) == 0 {
		delete(t.owned, owner)
		return
	}
	t.owned[owner] = now
}

// mark makes a row dirty.
func (t *Services) mark(p *port) {
	if !p.dirty {
		p.dirty = true
		t.dirty = append(t.dirty, p)
	}
}

// IDs returns the ids of the services that one Service object has in the kernel.
func (t *Services) IDs(owner Owner) []uint32 {
	var ids []uint32
	for _, p := range t.owned[owner] {
		if p.kernel != nil {
			ids = append(ids, p.kernel.id)
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
	for _, p := range t.dirty {
		if !p.wanted {
			continue
		}
		if err := t.writeService(p); err != nil {
			t.lacking[p.owner()] = err
			errs.add(fmt.Errorf("service %s: %w", p.name, err))
			continue
		}
		p.dirty = false
	}
	// 3 and 4: frontends that are wanted, then those that are not.
	t.applyFrontends(&errs)
	// 5: sources that a service is no longer for. The frontends know by now whether they are restricted.
	t.dropRanges(&errs)
	// 6: services to which no frontend leads any more. One whose frontend could not be removed waits for the next time.
	for _, p := range t.dirty {
		if p.wanted {
			continue
		}
		if err := t.deleteService(p); err != nil {
			errs.add(fmt.Errorf("service %s: %w", p.name, err))
			continue
		}
		p.dirty = false
	}
	t.dirty = keepDirty(t.dirty, func(p *port) bool { return p.dirty })
	return errs.join()
}

// keepDirty leaves what is dirty. A list that was long once and is empty now is given back.
func keepDirty[E any](list []E, dirty func(E) bool) []E {
	list = slices.DeleteFunc(list, func(e E) bool { return !dirty(e) })
	if len(list) == 0 {
		return nil
	}
	return list
}

// Lacking are the Service objects of which the last Apply could not write all to the kernel, with one cause each.
func (t *Services) Lacking() map[Owner]error { return t.lacking }

// Prune removes what Restore found and nothing has wanted since. It must be called once everything that is wanted was Set and
// Applied. What it cannot remove stays for the next call.
func (t *Services) Prune() error {
	var errs failures
	for _, f := range t.frontends.all {
		if !f.exists || !f.restored {
			continue
		}
		if err := t.deleteFrontend(f); err != nil {
			errs.add(fmt.Errorf("frontend %s: %w", f.Address, err))
		}
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
	size := Size{Services: len(t.services.byID)}
	for _, f := range t.frontends.all {
		if f.exists {
			size.Frontends++
		}
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
