package bpfmap

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/datapath/abi"
)

// trafficTable has one row for each service that is used, summed over all processors.
type trafficTable interface {
	put(uint32, abi.Traffic) error
	delete(uint32) error
	get(uint32) (abi.Traffic, bool, error)
	each(func(uint32, abi.Traffic) bool) error
}

type kernelTraffic struct{ m *ebpf.Map }

// put leaves all to the first processor.
func (t kernelTraffic) put(id uint32, v abi.Traffic) error {
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	perCPU := make([]abi.Traffic, processors)
	perCPU[0] = v
	if err := t.m.Put(&id, perCPU); err != nil {
		return fmt.Errorf("map %s: %w", t.m, err)
	}
	return nil
}

func (t kernelTraffic) delete(id uint32) error {
	if err := t.m.Delete(&id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("map %s: %w", t.m, err)
	}
	return nil
}

func (t kernelTraffic) get(id uint32) (abi.Traffic, bool, error) {
	var perCPU []abi.Traffic
	switch err := t.m.Lookup(&id, &perCPU); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return abi.Traffic{}, false, nil
	case err != nil:
		return abi.Traffic{}, false, fmt.Errorf("map %s: %w", t.m, err)
	}
	return sumTraffic(perCPU), true, nil
}

func (t kernelTraffic) each(fn func(uint32, abi.Traffic) bool) error {
	var id uint32
	var perCPU []abi.Traffic
	rows := t.m.Iterate()
	for rows.Next(&id, &perCPU) {
		if !fn(id, sumTraffic(perCPU)) {
			return nil
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("map %s: read: %w", t.m, err)
	}
	return nil
}

func sumTraffic(perCPU []abi.Traffic) (sum abi.Traffic) {
	for _, c := range perCPU {
		sum = sum.Add(c)
	}
	return sum
}

// Traffic returns what each service that is used has carried, by id: flows that are in the table have but their first packet in it.
func (m *Maps) Traffic() (map[uint32]abi.Traffic, error) {
	all := map[uint32]abi.Traffic{}
	err := m.traffic.each(func(id uint32, v abi.Traffic) bool {
		id &^= abi.TrafficCollected
		all[id] = all[id].Add(v)
		return true
	})
	return all, err
}

// CollectTraffic adds what a flow that is about to be removed has counted. It is for one goroutine.
func (m *Maps) CollectTraffic(f Flow) error {
	id, counted := f.Traffic()
	if counted == (abi.Traffic{}) {
		return nil
	}
	row, _, err := m.traffic.get(id | abi.TrafficCollected)
	if err != nil {
		return err
	}
	return m.traffic.put(id|abi.TrafficCollected, row.Add(counted))
}

// DeleteTraffic forgets what a service has carried, before another gets its id.
func (m *Maps) DeleteTraffic(id uint32) error {
	return errors.Join(m.traffic.delete(id), m.traffic.delete(id|abi.TrafficCollected))
}

// Traffic returns what the flow has counted for which service; nothing, if it belongs to none.
func (f Flow) Traffic() (service uint32, t abi.Traffic) {
	if f.Value.Service == 0 {
		return 0, t
	}
	way := abi.TrafficThere
	if f.Value.Flags&abi.CTReplySide != 0 {
		way = abi.TrafficBack
	}
	t.Bytes[way] = uint64(f.Value.Bytes)
	return f.Value.Service, t
}
