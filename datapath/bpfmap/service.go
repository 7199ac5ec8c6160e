package bpfmap

import (
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/desired"
)

// ServiceTables is the content of the maps of Services, as at restart. What the kernel does not hold is zero: the kinds of
// frontends and the protocols of backends.
type ServiceTables struct {
	Frontends map[desired.Frontend]Target
	// Services are by id.
	Services map[uint32]Service
}

// Target is what a frontend leads to.
type Target struct {
	// Service is the id for clients in the cluster, Outside that for the others.
	Service, Outside uint32
	// Restricted: only for the source ranges of Service.
	Restricted bool
}

// Service is a service as the kernel has it.
type Service struct {
	// Row counts the backends that are chosen from; after a crash there may be more.
	Row ServiceRow
	// Backends are by slot; a zero one is missing.
	Backends []desired.Backend
}

// PutSlot writes the backend at a place of a service.
func (m *Maps) PutSlot(service, index uint32, b desired.Backend) error {
	return m.slot.put(abi.SlotKey{Service: service, Index: index}, backendOf(b))
}

// Slot is a place of a service and the backend at it.
type Slot struct {
	Service, Index uint32
	Backend        desired.Backend
}

// PutSlots writes many places at once. After an error any of them may be written.
func (m *Maps) PutSlots(slots []Slot) error {
	keys, values := make([]abi.SlotKey, len(slots)), make([]abi.Backend, len(slots))
	for i, s := range slots {
		keys[i], values[i] = abi.SlotKey{Service: s.Service, Index: s.Index}, backendOf(s.Backend)
	}
	return m.slot.putAll(keys, values)
}

func backendOf(b desired.Backend) abi.Backend {
	return abi.Backend{Addr: abi.AddrFrom(b.Address.Addr()), Port: abi.Port(b.Address.Port())}
}

// DeleteSlot removes a place of a service.
func (m *Maps) DeleteSlot(service, index uint32) error {
	return m.slot.delete(abi.SlotKey{Service: service, Index: index})
}

// ServiceRow is a service: how many slots it has, and how they are chosen from.
type ServiceRow struct {
	ID, Slots uint32
	// Revision must differ from the last one when a slot was changed.
	Revision uint32
	// Affinity, Silent, Least and DSR are as in [desired.Service].
	Affinity           uint32
	Silent, Least, DSR bool
	// Ring is the first block of its ring, RingSize how many places that has; 0: it has none.
	Ring, RingSize uint32
}

func (r ServiceRow) value() abi.Service {
	s := abi.Service{Backends: r.Slots, Revision: r.Revision, Affinity: r.Affinity, Ring: r.Ring, RingSize: r.RingSize}
	if r.Silent {
		s.Flags |= abi.ServiceSilent
	}
	if r.Least {
		s.Flags |= abi.ServiceLeast
	}
	if r.DSR {
		s.Flags |= abi.ServiceDSR
	}
	return s
}

func rowOf(id uint32, s abi.Service) ServiceRow {
	return ServiceRow{
		ID: id, Slots: s.Backends, Revision: s.Revision, Affinity: s.Affinity,
		Silent: s.Flags&abi.ServiceSilent != 0, Least: s.Flags&abi.ServiceLeast != 0, DSR: s.Flags&abi.ServiceDSR != 0,
		Ring: s.Ring, RingSize: s.RingSize,
	}
}

// PutService writes a service.
func (m *Maps) PutService(row ServiceRow) error { return m.service.put(row.ID, row.value()) }

// PutServices writes many services at once. After an error any of them may be written.
func (m *Maps) PutServices(services []ServiceRow) error {
	keys, values := make([]uint32, len(services)), make([]abi.Service, len(services))
	for i, s := range services {
		keys[i], values[i] = s.ID, s.value()
	}
	return m.service.putAll(keys, values)
}

// DeleteService makes a service one without slots. Its row cannot go away: services are an array.
func (m *Maps) DeleteService(id uint32) error { return m.service.put(id, abi.Service{}) }

// PutFrontend leads an address and port to a service.
func (m *Maps) PutFrontend(f desired.Frontend, t Target) error {
	return m.frontend.put(frontendKey(f), t.value())
}

func (t Target) value() abi.Frontend {
	f := abi.Frontend{Service: t.Service, Outside: t.Outside}
	if t.Restricted {
		f.Flags |= abi.FrontendSourceRanges
	}
	return f
}

// FrontendRow is a frontend and what it leads to.
type FrontendRow struct {
	Frontend desired.Frontend
	Target   Target
}

// PutFrontends writes many frontends at once. After an error any of them may be written.
func (m *Maps) PutFrontends(frontends []FrontendRow) error {
	keys, values := make([]abi.FrontendKey, len(frontends)), make([]abi.Frontend, len(frontends))
	for i, f := range frontends {
		keys[i], values[i] = frontendKey(f.Frontend), f.Target.value()
	}
	return m.frontend.putAll(keys, values)
}

// DeleteFrontend removes an address and port.
func (m *Maps) DeleteFrontend(f desired.Frontend) error { return m.frontend.delete(frontendKey(f)) }

func frontendKey(f desired.Frontend) abi.FrontendKey {
	return abi.FrontendKey{
		Addr: abi.AddrFrom(f.Address.Addr()), Port: abi.Port(f.Address.Port()), Proto: uint8(f.Protocol),
	}
}

// Services reads all Service tables. A service is one that a frontend leads to or that has slots: the array holds a row for
// each possible id.
func (m *Maps) Services() (ServiceTables, error) {
	kernel := ServiceTables{
		Frontends: map[desired.Frontend]Target{}, Services: map[uint32]Service{},
	}
	err := m.frontend.each(func(k abi.FrontendKey, v abi.Frontend) bool {
		f := desired.Frontend{
			Address:  netip.AddrPortFrom(k.Addr.Netip(), abi.HostPort(k.Port)),
			Protocol: desired.Protocol(k.Proto),
		}
		kernel.Frontends[f] = Target{v.Service, v.Outside, v.Flags&abi.FrontendSourceRanges != 0}
		kernel.Services[v.Service] = Service{}
		kernel.Services[v.Outside] = Service{}
		return true
	})
	if err != nil {
		return kernel, err
	}
	err = m.slot.each(func(k abi.SlotKey, v abi.Backend) bool {
		s := kernel.Services[k.Service]
		for uint32(len(s.Backends)) <= k.Index {
			s.Backends = append(s.Backends, desired.Backend{})
		}
		s.Backends[k.Index] = desired.Backend{Address: netip.AddrPortFrom(v.Addr.Netip(), abi.HostPort(v.Port))}
		kernel.Services[k.Service] = s
		return true
	})
	if err != nil {
		return kernel, err
	}
	for id, s := range kernel.Services {
		row, _, err := m.service.get(id)
		if err != nil {
			return kernel, err
		}
		s.Row = rowOf(id, row)
		kernel.Services[id] = s
	}
	return kernel, nil
}

// PutSourceRange lets a source use the restricted frontends of a service.
func (m *Maps) PutSourceRange(service uint32, source netip.Prefix) error {
	return m.sourceRange.put(sourceRangeKey(service, source), 1)
}

// DeleteSourceRange takes that back.
func (m *Maps) DeleteSourceRange(service uint32, source netip.Prefix) error {
	return m.sourceRange.delete(sourceRangeKey(service, source))
}

// SourceRanges lists the sources by service.
func (m *Maps) SourceRanges() (map[uint32][]netip.Prefix, error) {
	ranges := map[uint32][]netip.Prefix{}
	err := m.sourceRange.each(func(k abi.SourceRangeKey, _ uint8) bool {
		addr, bits := k.Source.Netip(), int(k.Prefix)-32
		if addr.Is4() {
			bits -= 96
		}
		ranges[k.Service] = append(ranges[k.Service], netip.PrefixFrom(addr, bits))
		return true
	})
	return ranges, err
}

func sourceRangeKey(service uint32, source netip.Prefix) abi.SourceRangeKey {
	bits := source.Bits()
	if source.Addr().Is4() {
		bits += 96
	}
	return abi.SourceRangeKey{Prefix: uint32(32 + bits), Service: service, Source: abi.AddrFrom(source.Masked().Addr())}
}

// RingBlock is how many places of a ring a block has, RingBlocks how many blocks there are for all rings.
const (
	RingBlock  = len(abi.RingBlock{}.Slot)
	RingBlocks = 32768
)

// PutRing writes the places of a ring, each the index of a slot, from a block on.
func (m *Maps) PutRing(block uint32, places []uint16) error {
	count := (len(places) + RingBlock - 1) / RingBlock
	keys, values := make([]uint32, count), make([]abi.RingBlock, count)
	for i := range count {
		keys[i] = block + uint32(i)
		copy(values[i].Slot[:], places[i*RingBlock:])
	}
	return m.ring.putAll(keys, values)
}

// Ring reads the places of a ring from a block on.
func (m *Maps) Ring(block, size uint32) ([]uint16, error) {
	var places []uint16
	for ; len(places) < int(size); block++ {
		row, _, err := m.ring.get(block)
		if err != nil {
			return nil, err
		}
		places = append(places, row.Slot[:]...)
	}
	return places[:size], nil
}
