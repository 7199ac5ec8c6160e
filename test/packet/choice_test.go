package packet_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
	"github.com/skep-io/skep/datapath/maglev"
)

// change alters the rows of the service at vip:80 of a test node, in both families.
func change(t *testing.T, o *load.Objects, alter func(v6 bool, f *abi.Frontend, s *abi.Service)) {
	t.Helper()
	for _, family := range []struct {
		of func(netip.Addr) netip.Addr
		v6 bool
	}{{func(a netip.Addr) netip.Addr { return a }, false}, {six, true}} {
		for _, proto := range []uint8{6, 17} {
			for _, at := range []netip.AddrPort{at(vip, 80), at(anyIP, 30080)} {
				key := abi.FrontendKey{Addr: abi.AddrFrom(family.of(at.Addr())), Port: abi.Port(at.Port()), Proto: proto}
				var f abi.Frontend
				var s abi.Service
				if err := o.Map(abi.MapFrontend).Lookup(key, &f); err != nil {
					t.Fatal(err)
				}
				if err := o.Map(abi.MapService).Lookup(f.Service, &s); err != nil {
					t.Fatal(err)
				}
				alter(family.v6, &f, &s)
				if err := o.Map(abi.MapFrontend).Put(key, f); err != nil {
					t.Fatal(err)
				}
				if err := o.Map(abi.MapService).Put(f.Service, s); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// liveOn follows a packet's life on a node that prepare has been at.
func liveOn(t *testing.T, name string, prepare func(*testing.T, *load.Objects), life []hop) {
	t.Helper()
	o := testNode(t)
	prepare(t, o)
	live(t, o, name, life)
}

// TestTrafficPolicy: clients outside get the backends that are for them, and nothing at all where only other nodes have some.
func TestTrafficPolicy(t *testing.T) {
	const none = 500 // the id of a service that has never been written: without backends
	front := at(nodeIP, 30080)
	local := func(flags abi.ServiceFlag) func(*testing.T, *load.Objects) {
		return func(t *testing.T, o *load.Objects) {
			change(t, o, func(_ bool, f *abi.Frontend, _ *abi.Service) { f.Outside = none })
			if err := o.Map(abi.MapService).Put(uint32(none), abi.Service{Flags: flags}); err != nil {
				t.Fatal(err)
			}
		}
	}
	liveOn(t, "external policy Local without a backend here", local(abi.ServiceSilent), []hop{
		refused(abi.ProgFromNet, fromOut(tcpFrame(out, front, syn)), reason("no_local_backend")),
		to(abi.ProgFromPod, fromA(tcpFrame(a, at(vip, 80), syn)), redirect, fromA(tcpFrame(a, b, syn))),
	})
	liveOn(t, "external policy Local without any backend", local(0), []hop{
		refused(abi.ProgFromNet, fromOut(tcpFrame(out, front, syn)), reason("no_backend"),
			answered(tcpFrame(front, out, 0), rst|ack, 0, 101).macs(macHost, macOut)),
	})
}

// TestSourceRanges: a restricted frontend is for its sources and the node.
func TestSourceRanges(t *testing.T) {
	restrict := func(to netip.Addr, bits int) func(*testing.T, *load.Objects) {
		return func(t *testing.T, o *load.Objects) {
			change(t, o, func(v6 bool, f *abi.Frontend, _ *abi.Service) {
				f.Flags = abi.FrontendSourceRanges
				source, bits := abi.AddrFrom(to), bits
				if v6 {
					source = abi.AddrFrom(six(to))
				}
				key := abi.SourceRangeKey{Prefix: uint32(32 + 96 + bits), Service: f.Service, Source: source}
				if err := o.Map(abi.MapSourceRange).Put(key, uint8(1)); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
	front := at(nodeIP, 30080)
	liveOn(t, "source within", restrict(netip.MustParseAddr("192.0.2.0"), 24), []hop{
		to(abi.ProgFromNet, fromOut(tcpFrame(out, front, syn)), redirect, hopped(fromOut(tcpFrame(out, b, syn)))),
		refused(abi.ProgFromPod, fromA(tcpFrame(a, at(vip, 80), syn)), reason("source_range")),
	})
	liveOn(t, "source without", restrict(netip.MustParseAddr("192.0.2.128"), 25), []hop{
		refused(abi.ProgFromNet, fromOut(tcpFrame(out, front, syn)), reason("source_range")),
	})
}

// TestRing: two nodes that have the backends in other slots lead a client outside to the same one.
func TestRing(t *testing.T) {
	backends := list(at(podB, 9000), at(podB, 9001), at(podB, 9002), at(podB, 9003), at(podB, 9004))
	other := slices.Clone(backends)
	slices.Reverse(other)
	one, two := ringNode(t, backends), ringNode(t, other)
	chosen := map[uint16]int{}
	for port := range uint16(200) {
		in := fromOut(tcpFrame(at(clientIP, 1000+port), at(nodeIP, 30080), syn)).bytes()
		_, a := run(t, one, abi.ProgFromNet, in)
		_, b := run(t, two, abi.ProgFromNet, in)
		if !bytes.Equal(a, b) {
			t.Fatalf("client port %d: one node sends\n%x, the other\n%x", 1000+port, a, b)
		}
		chosen[uint16(a[36])<<8|uint16(a[37])]++
	}
	for _, b := range backends {
		if chosen[b.Port()] < 10 {
			t.Errorf("backend %d was chosen %d times of 200", b.Port(), chosen[b.Port()])
		}
	}
}

// ringNode is a node whose node port has a ring.
func ringNode(t *testing.T, backends []netip.AddrPort) *load.Objects {
	t.Helper()
	o := testNode(t)
	if err := tcp(1, nil, backends).write(o); err != nil {
		t.Fatal(err)
	}
	const first, size = 7, 251
	places := maglev.Ring(size, backends)
	for i := 0; i*32 < size; i++ {
		var block abi.RingBlock
		copy(block.Slot[:], places[i*32:])
		if err := o.Map(abi.MapRing).Put(uint32(first+i), block); err != nil {
			t.Fatal(err)
		}
	}
	row := abi.Service{Backends: uint32(len(backends)), Revision: 2, Ring: first, RingSize: size}
	if err := o.Map(abi.MapService).Put(uint32(1), row); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestAffinity: a client stays with its backend for as long as that serves, wherever it moves among the slots, and for as long as
// it comes back in time.
func TestAffinity(t *testing.T) {
	o := testNode(t)
	const id, backends = 1, 8
	slot := func(i uint32, b netip.AddrPort) {
		t.Helper()
		if err := o.Map(abi.MapSlot).Put(abi.SlotKey{Service: id, Index: i}, abi.Backend{Addr: abi.AddrFrom(b.Addr()), Port: abi.Port(b.Port())}); err != nil {
			t.Fatal(err)
		}
	}
	service := func(n, affinity uint32) {
		t.Helper()
		if err := o.Map(abi.MapService).Put(uint32(id), abi.Service{Backends: n, Revision: 1, Affinity: affinity}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint32(backends) {
		slot(i, at(podB, uint16(9000+i)))
	}
	port := uint16(1000)
	// choose opens a connection and returns the port of its backend.
	choose := func(from netip.Addr) uint16 {
		t.Helper()
		port++
		verdict, frame := run(t, o, abi.ProgFromPod, fromA(tcpFrame(at(from, port), at(vip, 80), syn)).bytes())
		if verdict != redirect {
			t.Fatalf("verdict %d", verdict)
		}
		return uint16(frame[36])<<8 | uint16(frame[37])
	}
	service(backends, 600)
	first := choose(podA)
	for range 50 {
		if again := choose(podA); again != first {
			t.Fatalf("backend %d, then %d", first, again)
		}
	}
	// The backend moves to another slot, as it does when one before it goes.
	for i := range uint32(backends) {
		slot(i, at(podB, uint16(9000+(i+3)%backends)))
	}
	if again := choose(podA); again != first {
		t.Errorf("moved from backend %d to %d when slots changed", first, again)
	}
	// It goes: another one is chosen and kept.
	for i := range uint32(backends) {
		slot(i, at(podB, uint16(9100+i)))
	}
	second := choose(podA)
	if second < 9100 || choose(podA) != second {
		t.Errorf("backend %d is not one that serves, or not kept", second)
	}
	// Without affinity, and after its time, the choice is random: that 50 of them are alike has odds of 8^-49.
	service(backends, 0)
	assertVaries(t, func() uint16 { return choose(podA) })
	service(backends, 1)
	choose(podA)
	expire(t, o, id)
	assertVaries(t, func() uint16 { expire(t, o, id); return choose(podA) })
}

func assertVaries(t *testing.T, choose func() uint16) {
	t.Helper()
	first := choose()
	for range 50 {
		if choose() != first {
			return
		}
	}
	t.Errorf("always backend %d", first)
}

// expire makes pod A's affinity an hour old.
func expire(t *testing.T, o *load.Objects, id uint32) {
	t.Helper()
	key := abi.AffinityKey{Client: abi.AddrFrom(podA), Service: id}
	var row abi.Affinity
	if err := o.Map(abi.MapAffinity).Lookup(key, &row); err != nil {
		t.Fatal(err)
	}
	row.Used -= uint32(time.Hour / time.Second)
	if err := o.Map(abi.MapAffinity).Put(key, row); err != nil {
		t.Fatal(err)
	}
}
