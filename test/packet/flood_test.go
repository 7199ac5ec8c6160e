package packet_test

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
)

// TestFlood fills the flow table to its last row with tuples that nobody will use again, and goes on sending new ones. Flows that
// were there before pass as if nothing were; new ones that need the table are refused, and counted; others pass untracked.
func TestFlood(t *testing.T) {
	o := testNode(t)
	before := []hop{
		to(abi.ProgFromPod, fromA(tcpFrame(a, at(vip, 80), syn)), redirect, fromA(tcpFrame(a, b, syn))),
		to(abi.ProgFromNet, fromOut(tcpFrame(out, at(nodeIP, 30080), syn)), redirect, hopped(fromOut(tcpFrame(out, b, syn)))),
		to(abi.ProgFromPod, fromA(udpFrame(at(podA, 5353), at(podB, 53))), redirect),
		to(abi.ProgToNet, udpFrame(a, out), pass, udpFrame(snat, out)),
	}
	established := []hop{
		to(abi.ProgFromPod, fromB(tcpFrame(b, a, syn|ack)), redirect, fromB(tcpFrame(at(vip, 80), a, syn|ack))),
		to(abi.ProgFromPod, fromA(tcpFrame(a, at(vip, 80), ack)), redirect, fromA(tcpFrame(a, b, ack))),
		to(abi.ProgFromNet, fromOut(tcpFrame(out, at(nodeIP, 30080), ack)), redirect, hopped(fromOut(tcpFrame(out, b, ack)))),
		to(abi.ProgFromPod, fromB(udpFrame(at(podB, 53), at(podA, 5353))), redirect),
		to(abi.ProgFromNet, fromOut(udpFrame(out, snat)), redirect, hopped(fromOut(udpFrame(out, a)))),
	}
	for _, h := range append(before, established...) {
		h.check(t, o)
	}
	fill(t, o)

	other := at(podA, 40001)
	flood := []hop{
		refused(abi.ProgFromPod, fromA(tcpFrame(other, at(vip, 80), syn)), reason("table_full")),
		refused(abi.ProgFromPod, fromA(udpFrame(other, at(vip, 80))), reason("table_full")),
		refused(abi.ProgFromNet, fromOut(tcpFrame(at(clientIP, 50001), at(nodeIP, 30080), syn)), reason("table_full")),
		refused(abi.ProgToNet, udpFrame(other, at(clientIP, 50001)), reason("table_full")),
		// Nothing depends on the entry of a flow that is not translated.
		to(abi.ProgFromPod, fromA(tcpFrame(other, b, syn)), redirect),
		to(abi.ProgFromPod, fromB(tcpFrame(b, other, syn|ack)), redirect),
		to(abi.ProgToPod, tcpFrame(node, other, syn), pass),
	}
	for range 3 {
		for _, h := range append(flood, established...) {
			h.check(t, o)
		}
	}
	if n := count(t, o.Map(abi.MapConntrack)); n != int(o.Map(abi.MapConntrack).MaxEntries()) {
		t.Errorf("%d flows: a full table lost some", n)
	}

	// With the flood over, and half of its flows collected, new ones are served again.
	drain(t, o)
	to(abi.ProgFromPod, fromA(tcpFrame(other, at(vip, 80), syn)), redirect, fromA(tcpFrame(other, b, syn))).check(t, o)
	for _, h := range established {
		h.check(t, o)
	}
}

// floodKey is the i-th tuple of the flood.
func floodKey(i int) abi.ConntrackKey {
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 16), byte(i >> 8)}), 1024+uint16(i&0xff))
	key, _ := abi.NewConntrackKey(from, b, 6)
	return key
}

// fill puts flows of the flood into the table until it takes no more.
func fill(t *testing.T, o *load.Objects) {
	t.Helper()
	const step = 4096
	m := o.Map(abi.MapConntrack)
	values := make([]abi.Conntrack, step)
	for i := range int(m.MaxEntries())/step + 1 {
		keys := make([]abi.ConntrackKey, step)
		for k := range keys {
			keys[k] = floodKey(i*step + k)
		}
		if n, err := m.BatchUpdate(keys, values, nil); err != nil {
			if n == step {
				t.Fatal(err)
			}
			break
		}
	}
	// A batch may end with the first row that found no room while another still has some.
	for i := 1 << 22; i < 1<<22+int(m.MaxEntries()); i++ {
		if err := m.Update(floodKey(i), &values[0], ebpf.UpdateNoExist); err != nil {
			return
		}
	}
	t.Fatal("the flow table takes more than it holds")
}

// drain deletes the first half of the flood.
func drain(t *testing.T, o *load.Objects) {
	t.Helper()
	m := o.Map(abi.MapConntrack)
	for i := range int(m.MaxEntries()) / 2 {
		if err := m.Delete(floodKey(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func count(t *testing.T, m *ebpf.Map) (n int) {
	t.Helper()
	var cursor ebpf.MapBatchCursor
	keys, values := make([]abi.ConntrackKey, 8192), make([]abi.Conntrack, 8192)
	for {
		got, err := m.BatchLookup(&cursor, keys, values, nil)
		n += got
		if err != nil {
			return n
		}
	}
}
