package bpfmap

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/datapath/abi"
)

// Zone returns what the kernel's answers hold for all names of the cluster's zone. Without flags there are none.
func (m *Maps) Zone() (abi.DNSZone, error) {
	row, _, err := m.zone.get(0)
	return row, err
}

// PutZone replaces that.
func (m *Maps) PutZone(z abi.DNSZone) error { return m.zone.put(0, z) }

// PutName writes what a name has.
func (m *Maps) PutName(key abi.DNSKey, row abi.DNSName) error { return m.record.put(key, row) }

// DeleteName removes a name.
func (m *Maps) DeleteName(key abi.DNSKey) error { return m.record.delete(key) }

// Name returns what a name has, and whether it is there.
func (m *Maps) Name(key abi.DNSKey) (abi.DNSName, bool, error) { return m.record.get(key) }

// Names calls f with each name until it returns false.
func (m *Maps) Names(f func(abi.DNSKey, abi.DNSName) bool) error { return m.record.each(f) }

// Lookups are the counters of the kernel's DNS answers by [abi.DNSIndex], and of queries that it left to the server by reason.
func (m *Maps) Lookups() (counts [abi.DNSCounts]uint64, err error) {
	for i := range counts {
		if counts[i], err = m.lookup.read(uint32(i)); err != nil {
			return counts, err
		}
	}
	return counts, nil
}

// counterTable reads one counter, summed over all processors.
type counterTable interface {
	read(index uint32) (uint64, error)
}

type kernelCounters struct{ m *ebpf.Map }

func (t kernelCounters) read(index uint32) (sum uint64, err error) {
	var perCPU []uint64
	if err := t.m.Lookup(&index, &perCPU); err != nil {
		return 0, fmt.Errorf("map %s: %w", t.m, err)
	}
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}

// noCounters is the fake: nothing is ever counted.
type noCounters struct{}

func (noCounters) read(uint32) (uint64, error) { return 0, nil }
