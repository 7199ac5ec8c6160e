package packet_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
)

// Verdicts of XDP programs.
const (
	xdpPass = 2
	xdpTX   = 3
)

// The other node, on the link that the client is on, and a pod of it.
var (
	otherNode = netip.MustParseAddr("192.0.2.3")
	otherPod  = netip.MustParseAddr("10.244.1.2")
)

// Last byte of the other node's MAC address.
const macOther = 0xd

// fronted is a node whose Services have their backends on another node.
type fronted struct {
	*world
	index int // of the device that leads outside
}

// newFronted makes such a node, with one port for its translated flows.
func newFronted(t *testing.T, flags abi.ServiceFlag) fronted {
	t.Helper()
	return newFrontedOf(t, flags, 61000, 61000)
}

// newFrontedOf makes one with a range of such ports.
func newFrontedOf(t *testing.T, flags abi.ServiceFlag, natMin, natMax uint16) fronted {
	t.Helper()
	testConfig := testConfig
	testConfig.NATPortMin, testConfig.NATPortMax = natMin, natMax
	w := newWorldOf(t, testConfig)
	w.outside()
	f := fronted{world: w}
	w.in(w.node, func() {
		l, err := net.InterfaceByName("up0")
		if err != nil {
			t.Error(err)
			return
		}
		f.index = l.Index
		for _, of := range []func(netip.Addr) netip.Addr{func(a netip.Addr) netip.Addr { return a }, six} {
			w.ip("route", "add", of(otherPod).String(), "via", of(otherNode).String())
			w.ip("neigh", "replace", of(otherNode).String(), "lladdr", mac(macOther), "dev", "up0", "nud", "permanent")
			w.ip("neigh", "replace", of(clientIP).String(), "lladdr", mac(macOut), "dev", "up0", "nud", "permanent")
		}
	})
	for _, s := range []service{
		tcp(1, list(at(anyIP, 30080), at(lbIP, 80)), list(at(otherPod, 8080))),
		udp(2, list(at(anyIP, 30080), at(lbIP, 80)), list(at(otherPod, 8080))),
	} {
		w.services(s)
		for _, id := range []uint32{s.id, s.six().id} {
			w.row(abi.MapService, id, abi.Service{Backends: 1, Revision: 1, Flags: flags})
		}
	}
	w.row(abi.MapNode, abi.AddrFrom(otherNode), abi.Node{})
	w.row(abi.MapNode, abi.AddrFrom(six(otherNode)), abi.Node{})
	return f
}

func mac(last byte) string { return fmt.Sprintf("02:00:00:00:00:%02x", last) }

// run sends a frame that came by the device outside through a program.
func (f fronted) run(t *testing.T, program string, in []byte) (uint32, []byte) {
	t.Helper()
	opts := ebpf.RunOptions{Data: in, DataOut: make([]byte, 512), Context: deviceContext(program, f.index, len(in))}
	var verdict uint32
	var err error
	f.in(f.node, func() { verdict, err = f.objects.Program(program).Run(&opts) })
	if program == abi.ProgFront && errors.Is(err, unix.EINVAL) {
		if version, e := features.LinuxVersionCode(); e == nil && version < 5<<16|15<<8 {
			t.Skip("before 5.15 a kernel runs a program of XDP only with frames of the loopback")
		}
	}
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return verdict, opts.DataOut
}

// deviceContext says by which device a frame came.
func deviceContext(program string, index, length int) []byte {
	if program == abi.ProgFront {
		ctx := make([]byte, 24) // struct xdp_md
		binary.NativeEndian.PutUint32(ctx[4:], uint32(length))
		binary.NativeEndian.PutUint32(ctx[12:], uint32(index))
		return ctx
	}
	ctx := make([]byte, 192) // struct __sk_buff
	binary.NativeEndian.PutUint32(ctx[40:], uint32(index))
	return ctx
}

// families runs a test with frames of IPv4 and their twins of IPv6, by TCP and UDP.
func families(t *testing.T, test func(t *testing.T, twin func(frame) []byte, l4 func(src, dst netip.AddrPort, flags uint8) frame)) {
	protocols := map[string]func(src, dst netip.AddrPort, flags uint8) frame{
		"tcp": tcpFrame,
		"udp": func(src, dst netip.AddrPort, _ uint8) frame { return udpFrame(src, dst) },
	}
	for name, l4 := range protocols {
		t.Run(name+"4", func(t *testing.T) { test(t, frame.bytes, l4) })
		t.Run(name+"6", func(t *testing.T) { test(t, func(f frame) []byte { return f.six().bytes() }, l4) })
	}
}

// same sends a frame through XDP and through tc, which must make the same packet of it, and checks that it is the one wanted. XDP
// also addresses the frame to the next hop.
func (f fronted) same(t *testing.T, in, want []byte, nextHop byte) {
	t.Helper()
	verdict, slow := f.run(t, abi.ProgFromNet, in)
	if verdict != redirect {
		t.Errorf("from_net: verdict %d, want %d", verdict, redirect)
	}
	verdict, fast := f.run(t, abi.ProgFront, in)
	if verdict != xdpTX {
		t.Errorf("front: verdict %d, want %d", verdict, xdpTX)
	}
	if !bytes.Equal(fast[14:], slow[14:]) {
		t.Errorf("XDP makes\n%x, tc\n%x", fast[14:], slow[14:])
	}
	if !bytes.Equal(fast[14:], want[14:]) {
		t.Errorf("XDP makes\n%x, want\n%x", fast[14:], want[14:])
	}
	if link := []byte{2, 0, 0, 0, 0, nextHop, 2, 0, 0, 0, 0, macHost}; !bytes.Equal(fast[:12], link) {
		t.Errorf("frame addressed %x, want %x", fast[:12], link)
	}
}

// passes checks that XDP leaves a frame alone.
func (f fronted) passes(t *testing.T, in []byte) {
	t.Helper()
	if verdict, out := f.run(t, abi.ProgFront, in); verdict != xdpPass || !bytes.Equal(in, out) {
		t.Errorf("front: verdict %d, want %d; frame\n%x, want\n%x", verdict, xdpPass, out, in)
	}
}

// begins sends a frame through tc.
func (f fronted) begins(t *testing.T, in, want []byte) {
	t.Helper()
	verdict, out := f.run(t, abi.ProgFromNet, in)
	if verdict != redirect || !bytes.Equal(out[14:], want[14:]) {
		t.Errorf("from_net: verdict %d, want %d; packet\n%x, want\n%x", verdict, redirect, out[14:], want[14:])
	}
}

func fromOther(f frame) frame { return f.macs(macOther, macHost) }

// TestFrontTranslates follows flows to a backend of another node, in both directions.
func TestFrontTranslates(t *testing.T) {
	for name, front := range map[string]netip.AddrPort{"node port": at(nodeIP, 30080), "load balancer": at(lbIP, 80)} {
		t.Run(name, func(t *testing.T) {
			families(t, func(t *testing.T, twin func(frame) []byte, l4 func(src, dst netip.AddrPort, flags uint8) frame) {
				f := newFronted(t, 0)
				backend := at(otherPod, 8080)
				opening := twin(fromOut(l4(out, front, syn)))
				f.passes(t, opening)
				f.begins(t, opening, twin(hopped(l4(snat, backend, syn))))
				// The first answer is news.
				answer := twin(fromOther(l4(backend, snat, syn|ack)))
				f.passes(t, answer)
				f.begins(t, answer, twin(hopped(l4(front, out, syn|ack))))
				f.same(t, twin(fromOut(l4(out, front, ack))), twin(hopped(l4(snat, backend, ack))), macOther)
				f.same(t, twin(fromOther(l4(backend, snat, ack))), twin(hopped(l4(front, out, ack))), macOut)
				// What is unusual is for tc.
				f.passes(t, twin(expiring(fromOut(l4(out, front, ack)))))
				f.passes(t, twin(optioned(fromOut(l4(out, front, ack)))))
				f.passes(t, twin(fragmented(fromOut(l4(out, front, ack)), 0x2000)))
				f.passes(t, partial(twin(fromOut(l4(out, front, ack)))))
				// So is what was decided before something changed.
				f.row(abi.MapControl, uint32(0), abi.Control{Epoch: 7, Generation: 3})
				f.passes(t, twin(fromOut(l4(out, front, ack))))
				f.begins(t, twin(fromOut(l4(out, front, ack))), twin(hopped(l4(snat, backend, ack))))
				f.same(t, twin(fromOut(l4(out, front, ack))), twin(hopped(l4(snat, backend, ack))), macOther)
			})
		})
	}
}

// TestFrontDirect follows flows whose backend's node answers the client.
func TestFrontDirect(t *testing.T) {
	for name, front := range map[string]netip.AddrPort{"node port": at(nodeIP, 30080), "load balancer": at(lbIP, 80)} {
		t.Run(name, func(t *testing.T) {
			families(t, func(t *testing.T, twin func(frame) []byte, l4 func(src, dst netip.AddrPort, flags uint8) frame) {
				f := newFronted(t, abi.ServiceDSR)
				opening := twin(fromOut(l4(out, front, syn)))
				f.passes(t, opening)
				f.begins(t, opening, twin(hopped(l4(out, front, syn))))
				later := twin(fromOut(l4(out, front, ack)))
				f.begins(t, later, twin(hopped(l4(out, front, ack))))
				f.same(t, later, twin(hopped(l4(out, front, ack))), macOther)
			})
		})
	}
}

// TestFrontKeepsState: what ends a flow passes tc, whatever XDP has seen of it, and leaves nothing behind.
func TestFrontKeepsState(t *testing.T) {
	f := newFronted(t, 0)
	front, backend := at(nodeIP, 30080), at(otherPod, 8080)
	f.begins(t, fromOut(tcpFrame(out, front, syn)).bytes(), hopped(tcpFrame(snat, backend, syn)).bytes())
	f.begins(t, fromOther(tcpFrame(backend, snat, syn|ack)).bytes(), hopped(tcpFrame(front, out, syn|ack)).bytes())
	f.row(abi.MapControl, uint32(0), abi.Control{Generation: 9})
	f.same(t, fromOut(tcpFrame(out, front, ack)).bytes(), hopped(tcpFrame(snat, backend, ack)).bytes(), macOther)
	key, _ := abi.NewConntrackKey(out, front, 6)
	var flow abi.Conntrack
	if err := f.objects.Map(abi.MapConntrack).Lookup(key, &flow); err != nil || flow.LastSeen != 9 {
		t.Errorf("flow seen at %d (%v), want 9", flow.LastSeen, err)
	}
	for _, hop := range [][2]frame{
		{fromOut(tcpFrame(out, front, fin|ack)), hopped(tcpFrame(snat, backend, fin|ack))},
		{fromOther(tcpFrame(backend, snat, fin|ack)), hopped(tcpFrame(front, out, fin|ack))},
		{fromOut(tcpFrame(out, front, ack)), hopped(tcpFrame(snat, backend, ack))},
	} {
		f.passes(t, hop[0].bytes())
		f.begins(t, hop[0].bytes(), hop[1].bytes())
	}
	if err := f.objects.Map(abi.MapConntrack).Lookup(key, &flow); err == nil {
		t.Error("the flow is over and still in the table")
	}
}

// partial gives a frame the checksum that a socket leaves for a device to finish.
func partial(b []byte) []byte {
	b = bytes.Clone(b)
	l4, proto, addrs := 34, b[23], b[26:34]
	if b[12] == 0x86 {
		l4, proto, addrs = 54, b[20], b[22:54]
	}
	at := l4 + 16
	if proto == 17 {
		at = l4 + 6
	}
	binary.BigEndian.PutUint16(b[at:], ^checksum(uint32(proto)+uint32(len(b)-l4), addrs))
	return b
}

// TestHandedOn: the node of the backend serves what another node was asked for, in its name, and keeps the client's address.
func TestHandedOn(t *testing.T) {
	for name, flags := range map[string]abi.ServiceFlag{"dsr": abi.ServiceDSR, "snat": 0} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.pod("b", podB)
			w.outside()
			f := fronted{world: w}
			w.in(w.node, func() {
				l, err := net.InterfaceByName("up0")
				if err != nil {
					t.Error(err)
					return
				}
				f.index = l.Index
			})
			for _, of := range []func(netip.Addr) netip.Addr{func(a netip.Addr) netip.Addr { return a }, six} {
				w.row(abi.MapNode, abi.AddrFrom(of(otherNode)), abi.Node{})
			}
			s := tcp(1, list(at(anyIP, 30080)), list(at(podB, 8080)))
			w.services(s)
			for _, id := range []uint32{s.id, s.six().id} {
				w.row(abi.MapService, id, abi.Service{Backends: 1, Revision: 1, Flags: flags})
			}
			asked := at(otherNode, 30080)
			for _, twin := range []func(frame) []byte{frame.bytes, func(f frame) []byte { return f.six().bytes() }} {
				opening := twin(fromOther(tcpFrame(out, asked, syn)))
				if flags == 0 {
					if verdict, got := f.run(t, abi.ProgFromNet, opening); verdict != pass || !bytes.Equal(opening, got) {
						t.Errorf("verdict %d, want %d, and the packet as it was: %x", verdict, pass, got)
					}
					continue
				}
				f.begins(t, opening, twin(hopped(tcpFrame(out, b, syn))))
				if _, got := f.run(t, abi.ProgToNet, twin(tcpFrame(b, out, syn|ack))); !bytes.Equal(got, twin(tcpFrame(asked, out, syn|ack))) {
					t.Errorf("the answer is %x", got[14:])
				}
			}
		})
	}
}
