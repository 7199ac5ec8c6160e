package packet_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
)

// Verdicts of tc programs.
const (
	pass     = 0
	drop     = 2
	redirect = 7
)

// Last bytes of MAC addresses.
const (
	macHost = 1
	macA    = 0xa
	macB    = 0xb
	macOut  = 0xc
)

// lo is the only device that every namespace has. The kernel gives it to
// packets of a test run, so both pods are behind it.
const lo = 1

// noReason stands for no drop.
const noReason = -1

// hop is one program that a packet passes.
type hop struct {
	program string
	in      frame
	verdict uint32
	out     *frame // nil: as it came; not looked at if dropped
	reason  int
}

// testNode loads unpinned programs for a node with two pods.
func testNode(tb testing.TB) *load.Objects {
	tb.Helper()
	config := testConfig
	config.NATPortMin, config.NATPortMax = 61000, 61000
	o, err := load.Open(config)
	if err != nil {
		tb.Fatalf("%+v", err)
	}
	tb.Cleanup(func() { o.Close() })
	put := func(name string, key, value any) {
		if err := o.Map(name).Put(key, value); err != nil {
			tb.Fatal(err)
		}
	}
	put(abi.MapDevice, uint32(lo), abi.Device{Masquerade: abi.AddrFrom(nodeIP), Masquerade6: abi.AddrFrom(six(nodeIP))})
	for _, of := range []func(netip.Addr) netip.Addr{func(a netip.Addr) netip.Addr { return a }, six} {
		put(abi.MapNode, abi.AddrFrom(of(router)), abi.Node{Flags: abi.NodeLocal})
		put(abi.MapNode, abi.AddrFrom(of(nodeIP)), abi.Node{Flags: abi.NodeLocal})
		put(abi.MapEndpoint, abi.AddrFrom(of(podA)), abi.Endpoint{Ifindex: lo, Mac: [6]uint8{2, 0, 0, 0, 0, macA}})
		put(abi.MapEndpoint, abi.AddrFrom(of(podB)), abi.Endpoint{Ifindex: lo, Mac: [6]uint8{2, 0, 0, 0, 0, macB}})
	}
	services := []service{
		tcp(1, list(at(vip, 80), at(anyIP, 30080)), list(at(podB, 8080))),
		udp(2, list(at(vip, 80), at(anyIP, 30080)), list(at(podB, 8080))),
		tcp(3, list(at(vip, 81), at(anyIP, 30081)), nil),
		udp(4, list(at(vip, 81), at(anyIP, 30081)), nil),
		tcp(5, list(at(anyIP, 30082)), list(at(nodeIP, 8080))),
	}
	for _, s := range services {
		for _, s := range []service{s, s.six()} {
			if err := s.write(o); err != nil {
				tb.Fatal(err)
			}
		}
	}
	return o
}

// live follows a packet's life, and its twin's of IPv6, on a node that no packet has passed.
func live(t *testing.T, o *load.Objects, name string, life []hop) {
	t.Run(name+" v4", func(t *testing.T) { follow(t, o, life, false) })
	t.Run(name+" v6", func(t *testing.T) { follow(t, o, life, true) })
}

// follow follows a packet's life, or its twin's of IPv6.
func follow(t *testing.T, o *load.Objects, life []hop, v6 bool) {
	t.Helper()
	forget(t, o)
	for _, h := range life {
		if v6 {
			h.in = h.in.six()
			if h.out != nil {
				out := h.out.six()
				h.out = &out
			}
		}
		h.check(t, o)
	}
}

// run sends one packet through a program.
func run(tb testing.TB, o *load.Objects, program string, in []byte) (uint32, []byte) {
	tb.Helper()
	out := make([]byte, 256)
	opts := ebpf.RunOptions{Data: in, DataOut: out}
	verdict, err := o.Program(program).Run(&opts)
	if err != nil {
		tb.Fatalf("%s: %v", program, err)
	}
	return verdict, opts.DataOut
}

// drops reads how often a reason was counted anywhere.
func drops(tb testing.TB, o *load.Objects, reason int) (n uint64) {
	tb.Helper()
	for place := range abi.Places {
		var perCPU []abi.DropCounter
		if err := o.Map(abi.MapDrop).Lookup(abi.DropIndex(abi.DropReason(reason), abi.Place(place)), &perCPU); err != nil {
			tb.Fatal(err)
		}
		for _, c := range perCPU {
			n += c.Packets
		}
	}
	return n
}

// forget empties the maps that packets fill.
func forget(t *testing.T, o *load.Objects) {
	t.Helper()
	for _, name := range []string{abi.MapConntrack, abi.MapFragment, abi.MapAffinity} {
		m := o.Map(name)
		var keys [][]byte
		var key, value []byte
		for rows := m.Iterate(); rows.Next(&key, &value); {
			keys = append(keys, append([]byte(nil), key...))
		}
		for _, key := range keys {
			if err := m.Delete(key); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (h hop) check(t *testing.T, o *load.Objects) {
	t.Helper()
	in := h.in.bytes()
	var before uint64
	if h.reason != noReason {
		before = drops(t, o, h.reason)
	}
	verdict, out := run(t, o, h.program, in)
	if verdict != h.verdict {
		t.Errorf("%s: verdict %d, want %d", h.program, verdict, h.verdict)
	}
	if h.reason != noReason && drops(t, o, h.reason) != before+1 {
		t.Errorf("%s: drop reason %d was not counted", h.program, h.reason)
	}
	if h.verdict == drop {
		return
	}
	want := in
	if h.out != nil {
		want = h.out.bytes()
	}
	if !bytes.Equal(out, want) {
		t.Errorf("%s: packet out\n%x, want\n%x", h.program, out, want)
	}
}

// to is a hop that ends with the packet sent on, as it came if out is absent.
func to(program string, in frame, verdict uint32, out ...frame) hop {
	h := hop{program: program, in: in, verdict: verdict, reason: noReason}
	if len(out) > 0 {
		h.out = &out[0]
	}
	return h
}

// refused is a hop that ends with a drop, or with an answer to the sender.
func refused(program string, in frame, reason abi.DropReason, answer ...frame) hop {
	h := to(program, in, drop)
	h.reason = int(reason)
	if len(answer) > 0 {
		h.verdict, h.out = redirect, &answer[0]
	}
	return h
}
