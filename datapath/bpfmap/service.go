package bpfmap

import (
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/desired"
)

// ServiceTables is the content of the maps of Services, as at restart. What the kernel does not hold is zero: the kinds of
// frontends and the protocols of backends.
type ServiceTables struct {
	// Frontends leads to the ids of Services.
	Frontends map[desired.Frontend]uint32
	Services  map[uint32]Service
}

// Service is a service as the kernel has it.
type Service struct {
	// Slots is how many of the backends are chosen from; after a crash there may be more.
	Slots, Revision uint32
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

// PutService says how many slots a service has. revision must differ from the last one when a slot was changed.
func (m *Maps) PutService(id, slots, revision uint32) error {
	return m.service.put(id, abi.Service{Backends: slots, Revision: revision})
}

// ServiceRow is a service and how many slots it has.
type ServiceRow struct{ ID, Slots, Revision uint32 }

// PutServices writes many services at once. After an error any of them may be written.
func (m *Maps) PutServices(services []ServiceRow) error {
	keys, values := make([]uint32, len(services)), make([]abi.Service, len(services))
	for i, s := range services {
		keys[i], values[i] = s.ID, abi.Service{Backends: s.Slots, Revision: s.Revision}
	}
	return m.service.putAll(keys, values)
}

// DeleteService makes a service one without slots. Its row cannot go away: services are an array.
func (m *Maps) DeleteService(id uint32) error { return m.service.put(id, abi.Service{}) }

// PutFrontend leads an address and port to a service.
func (m *Maps) PutFrontend(f desired.Frontend, service uint32) error {
	return m.frontend.put(frontendKey(f), abi.Frontend{Service: service, Outside: service})
}

// FrontendRow is a frontend and the service that it leads to.
type FrontendRow struct {
	Frontend desired.Frontend
	Service  uint32
}

// PutFrontends writes many frontends at once. After an error any of them may be written.
func (m *Maps) PutFrontends(frontends []FrontendRow) error {
	keys, values := make([]abi.FrontendKey, len(frontends)), make([]abi.Frontend, len(frontends))
	for i, f := range frontends {
		keys[i], values[i] = frontendKey(f.Frontend), abi.Frontend{Service: f.Service, Outside: f.Service}
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
		Frontends: map[desired.Frontend]uint32{}, Services: map[uint32]Service{},
	}
	err := m.frontend.each(func(k abi.FrontendKey, v abi.Frontend) bool {
		f := desired.Frontend{
			Address:  netip.AddrPortFrom(k.Addr.Netip(), abi.HostPort(k.Port)),
			Protocol: desired.Protocol(k.Proto),
		}
		kernel.Frontends[f] = v.Service
		kernel.Services[v.Service] = Service{}
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
		s.Slots, s.Revision = row.Backends, row.Revision
		kernel.Services[id] = s
	}
	return kernel, nil
}
