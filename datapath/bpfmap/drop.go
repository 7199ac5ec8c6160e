package bpfmap

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/datapath/abi"
)

// Drop counts what was refused for one reason at one place.
type Drop struct {
	// Reason and Place are named as in the programs, for example "no_backend" and "from_pod".
	Reason, Place  string
	Packets, Bytes uint64
}

// dropTable reads one counter, summed over all processors.
type dropTable interface {
	read(index uint32) (abi.DropCounter, error)
}

type kernelDrops struct{ m *ebpf.Map }

func (t kernelDrops) read(index uint32) (abi.DropCounter, error) {
	var perCPU []abi.DropCounter
	var sum abi.DropCounter
	if err := t.m.Lookup(&index, &perCPU); err != nil {
		return sum, fmt.Errorf("map %s: %w", t.m, err)
	}
	for _, c := range perCPU {
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
	}
	return sum, nil
}

// noDrops is the fake: nothing is ever dropped.
type noDrops struct{}

func (noDrops) read(uint32) (abi.DropCounter, error) { return abi.DropCounter{}, nil }

// Drops returns a row for each reason and place, in the order of the programs, those never counted included.
func (m *Maps) Drops() ([]Drop, error) {
	names, err := abi.ReadNames()
	if err != nil {
		return nil, err
	}
	drops := make([]Drop, 0, len(names.Reasons)*len(names.Places))
	for r, reason := range names.Reasons {
		for p, place := range names.Places {
			c, err := m.drop.read(abi.DropIndex(abi.DropReason(r), abi.Place(p)))
			if err != nil {
				return nil, err
			}
			drops = append(drops, Drop{Reason: reason, Place: place, Packets: c.Packets, Bytes: c.Bytes})
		}
	}
	return drops, nil
}
