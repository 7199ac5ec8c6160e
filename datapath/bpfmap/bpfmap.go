// Package bpfmap gives the kernel's maps types of this program: addresses instead of bytes, rows instead of structs. The same
// code runs over maps in the kernel and over a fake in memory.
package bpfmap

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/datapath/abi"
)

// Maps are the maps of one node. They are safe for concurrent use; writers of one row must agree among themselves.
type Maps struct {
	frontend  table[abi.FrontendKey, abi.Frontend]
	service   table[uint32, abi.Service]
	slot      table[abi.SlotKey, abi.Backend]
	endpoint  table[abi.Addr, abi.Endpoint]
	netns     table[uint64, abi.Addr]
	node      table[abi.Addr, abi.Node]
	device    table[uint32, abi.Device]
	control   table[uint32, abi.Control]
	conntrack table[abi.ConntrackKey, abi.Conntrack]
	drop      dropTable
	peer      table[uint64, abi.Peer]
	ring      table[uint32, abi.RingBlock]
	affinity  table[abi.AffinityKey, abi.Affinity]
	// sourceRange has no values of interest.
	sourceRange table[abi.SourceRangeKey, uint8]
	identity    table[abi.Addr, uint32]
	policy      table[abi.PolicyKey, abi.PolicyPorts]
	cidr        table[abi.CIDRKey, abi.PolicyPorts]
	ports       table[abi.PortKey, uint32]
	tunnel      table[abi.TunnelKey, abi.Tunnel]
	zone        table[uint32, abi.DNSZone]
	record      table[abi.DNSKey, abi.DNSName]
	lookup      counterTable
	traffic     trafficTable
	load        table[abi.LoadKey, uint32]
	watch       table[uint32, abi.Watch]

	// sizes are the most rows that each map takes, by name.
	sizes   map[string]uint32
	closers []io.Closer
	// controlMu guards the read-change-write of the control row.
	controlMu sync.Mutex
}

// Open opens the maps that are pinned in dir. Close releases them.
func Open(dir string) (*Maps, error) {
	return assemble(func(name string) (*ebpf.Map, error) {
		return ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
	})
}

// Create makes fresh maps that are pinned nowhere and vanish with Close. They are what tests on the real kernel write to.
func Create() (*Maps, error) {
	specs, err := abi.Specs()
	if err != nil {
		return nil, err
	}
	return assemble(func(name string) (*ebpf.Map, error) {
		spec := specs.Netdev.Maps[name]
		if spec == nil {
			spec = specs.Sock.Maps[name]
		}
		if spec == nil {
			spec = specs.Pod.Maps[name]
		}
		if spec == nil {
			return nil, errors.New("not in the programs")
		}
		spec.Pinning = ebpf.PinNone
		return ebpf.NewMap(spec)
	})
}

func assemble(open func(name string) (*ebpf.Map, error)) (*Maps, error) {
	m := &Maps{sizes: map[string]uint32{}}
	byName := map[string]*ebpf.Map{}
	for _, name := range []string{
		abi.MapFrontend, abi.MapService, abi.MapSlot, abi.MapEndpoint, abi.MapNetns, abi.MapNode, abi.MapDevice,
		abi.MapControl, abi.MapConntrack, abi.MapDrop, abi.MapSourceRange, abi.MapRing, abi.MapPeer, abi.MapAffinity,
		abi.MapIdentity, abi.MapPolicy, abi.MapCIDR, abi.MapPorts, abi.MapTunnel,
		abi.MapZone, abi.MapRecord, abi.MapLookup, abi.MapTraffic, abi.MapLoad, abi.MapWatch,
	} {
		one, err := open(name)
		if err != nil {
			m.Close()
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
		byName[name] = one
		m.sizes[name] = one.MaxEntries()
		m.closers = append(m.closers, one)
	}
	m.frontend = kernelTable[abi.FrontendKey, abi.Frontend]{byName[abi.MapFrontend]}
	m.service = kernelTable[uint32, abi.Service]{byName[abi.MapService]}
	m.slot = kernelTable[abi.SlotKey, abi.Backend]{byName[abi.MapSlot]}
	m.endpoint = kernelTable[abi.Addr, abi.Endpoint]{byName[abi.MapEndpoint]}
	m.netns = kernelTable[uint64, abi.Addr]{byName[abi.MapNetns]}
	m.node = kernelTable[abi.Addr, abi.Node]{byName[abi.MapNode]}
	m.device = kernelTable[uint32, abi.Device]{byName[abi.MapDevice]}
	m.control = kernelTable[uint32, abi.Control]{byName[abi.MapControl]}
	m.conntrack = kernelTable[abi.ConntrackKey, abi.Conntrack]{byName[abi.MapConntrack]}
	m.peer = kernelTable[uint64, abi.Peer]{byName[abi.MapPeer]}
	m.ring = kernelTable[uint32, abi.RingBlock]{byName[abi.MapRing]}
	m.affinity = kernelTable[abi.AffinityKey, abi.Affinity]{byName[abi.MapAffinity]}
	m.sourceRange = kernelTable[abi.SourceRangeKey, uint8]{byName[abi.MapSourceRange]}
	m.drop = kernelDrops{byName[abi.MapDrop]}
	m.identity = kernelTable[abi.Addr, uint32]{byName[abi.MapIdentity]}
	m.policy = kernelTable[abi.PolicyKey, abi.PolicyPorts]{byName[abi.MapPolicy]}
	m.cidr = kernelTable[abi.CIDRKey, abi.PolicyPorts]{byName[abi.MapCIDR]}
	m.ports = kernelTable[abi.PortKey, uint32]{byName[abi.MapPorts]}
	m.tunnel = kernelTable[abi.TunnelKey, abi.Tunnel]{byName[abi.MapTunnel]}
	m.zone = kernelTable[uint32, abi.DNSZone]{byName[abi.MapZone]}
	m.record = kernelTable[abi.DNSKey, abi.DNSName]{byName[abi.MapRecord]}
	m.lookup = kernelCounters{byName[abi.MapLookup]}
	m.traffic = kernelTraffic{byName[abi.MapTraffic]}
	m.load = kernelTable[abi.LoadKey, uint32]{byName[abi.MapLoad]}
	m.watch = kernelTable[uint32, abi.Watch]{byName[abi.MapWatch]}
	return m, nil
}

// Fake returns maps in memory. fail is asked before each write ("put" or "delete") to a table named as in the kernel, and
// returns the error to give; nil means that nothing fails.
func Fake(fail func(op, table string) error) *Maps {
	if fail == nil {
		fail = func(string, string) error { return nil }
	}
	return &Maps{
		frontend:    newMemoryTable[abi.FrontendKey, abi.Frontend](abi.MapFrontend, fail),
		service:     newMemoryTable[uint32, abi.Service](abi.MapService, fail),
		slot:        newMemoryTable[abi.SlotKey, abi.Backend](abi.MapSlot, fail),
		endpoint:    newMemoryTable[abi.Addr, abi.Endpoint](abi.MapEndpoint, fail),
		netns:       newMemoryTable[uint64, abi.Addr](abi.MapNetns, fail),
		node:        newMemoryTable[abi.Addr, abi.Node](abi.MapNode, fail),
		device:      newMemoryTable[uint32, abi.Device](abi.MapDevice, fail),
		control:     newMemoryTable[uint32, abi.Control](abi.MapControl, fail),
		conntrack:   newMemoryTable[abi.ConntrackKey, abi.Conntrack](abi.MapConntrack, fail),
		peer:        newMemoryTable[uint64, abi.Peer](abi.MapPeer, fail),
		ring:        newMemoryTable[uint32, abi.RingBlock](abi.MapRing, fail),
		affinity:    newMemoryTable[abi.AffinityKey, abi.Affinity](abi.MapAffinity, fail),
		sourceRange: newMemoryTable[abi.SourceRangeKey, uint8](abi.MapSourceRange, fail),
		drop:        noDrops{},
		sizes:       map[string]uint32{},
		identity:    newMemoryTable[abi.Addr, uint32](abi.MapIdentity, fail),
		policy:      newMemoryTable[abi.PolicyKey, abi.PolicyPorts](abi.MapPolicy, fail),
		cidr:        newMemoryTable[abi.CIDRKey, abi.PolicyPorts](abi.MapCIDR, fail),
		ports:       newMemoryTable[abi.PortKey, uint32](abi.MapPorts, fail),
		tunnel:      newMemoryTable[abi.TunnelKey, abi.Tunnel](abi.MapTunnel, fail),
		zone:        newMemoryTable[uint32, abi.DNSZone](abi.MapZone, fail),
		record:      newMemoryTable[abi.DNSKey, abi.DNSName](abi.MapRecord, fail),
		lookup:      noCounters{},
		traffic:     newMemoryTable[uint32, abi.Traffic](abi.MapTraffic, fail),
		load:        newMemoryTable[abi.LoadKey, uint32](abi.MapLoad, fail),
		watch:       newMemoryTable[uint32, abi.Watch](abi.MapWatch, fail),
	}
}

// Close releases the maps. Pinned ones stay in the kernel.
func (m *Maps) Close() {
	for _, c := range m.closers {
		c.Close()
	}
}

// Capacity returns the most rows that the map of that name takes; 0 when it has no limit, as in a fake.
func (m *Maps) Capacity(name string) uint32 { return m.sizes[name] }

// Rows counts the rows of the maps that do not grow with the flow table, by name. It reads them all.
func (m *Maps) Rows() (map[string]int, error) {
	rows := map[string]int{}
	err := errors.Join(
		count(m.frontend, abi.MapFrontend, rows),
		count(m.slot, abi.MapSlot, rows),
		count(m.endpoint, abi.MapEndpoint, rows),
		count(m.netns, abi.MapNetns, rows),
		count(m.node, abi.MapNode, rows),
		count(m.device, abi.MapDevice, rows),
		count(m.identity, abi.MapIdentity, rows),
		count(m.policy, abi.MapPolicy, rows),
		count(m.cidr, abi.MapCIDR, rows),
		count(m.ports, abi.MapPorts, rows),
		count(m.tunnel, abi.MapTunnel, rows),
		count(m.sourceRange, abi.MapSourceRange, rows),
		count(m.record, abi.MapRecord, rows),
		count(m.load, abi.MapLoad, rows),
		count(m.peer, abi.MapPeer, rows),
	)
	return rows, err
}

func count[K comparable, V any](t table[K, V], name string, rows map[string]int) error {
	rows[name] = 0
	return t.each(func(K, V) bool { rows[name]++; return true })
}
