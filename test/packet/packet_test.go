package packet_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
)

// Ends of the flows below.
var (
	a    = at(podA, 40000)
	b    = at(podB, 8080)
	out  = at(clientIP, 50000)
	node = at(nodeIP, 22)
	snat = at(nodeIP, 61000)
)

// A packet as it leaves pod A, pod B, or the machine outside.
func fromA(f frame) frame   { return f.macs(macA, macHost) }
func fromB(f frame) frame   { return f.macs(macB, macHost) }
func fromOut(f frame) frame { return f.macs(macOut, macHost) }

// hopped is a frame one router later.
func hopped(f frame) frame {
	f.ttl = 63
	return f
}

func answered(f frame, flags uint8, seq, ack uint32) frame {
	f.flags, f.seq, f.ack = flags, seq, ack
	return f
}

// rest is the second and last fragment of a datagram.
func rest(src, dst netip.Addr) frame {
	return frame{src: at(src, 0), dst: at(dst, 0), proto: unix.IPPROTO_UDP, fragment: 0x0002, raw: []byte("the rest")}
}

func optioned(f frame) frame {
	f.options = 8
	return f
}

func fragmented(f frame, field uint16) frame {
	f.fragment = field
	return f
}

// TestPacket follows packets through the programs, hop after hop.
func TestPacket(t *testing.T) {
	rows := []struct {
		name string
		life []hop
	}{
		{"pod to pod", []hop{
			to(abi.ProgFromPod, fromA(udpFrame(a, b)), redirect),
			to(abi.ProgFromPod, fromB(udpFrame(b, a)), redirect),
			to(abi.ProgFromPod, fromA(udpFrame(a, b)), redirect),
		}},
		{"TCP pod to pod, from opening to end", []hop{
			to(abi.ProgFromPod, fromA(tcpFrame(a, b, syn)), redirect),
			to(abi.ProgFromPod, fromB(tcpFrame(b, a, syn|ack)), redirect),
			to(abi.ProgFromPod, fromA(tcpFrame(a, b, fin|ack)), redirect),
			to(abi.ProgFromPod, fromB(tcpFrame(b, a, fin|ack)), redirect),
			to(abi.ProgFromPod, fromA(tcpFrame(a, b, ack)), redirect),
		}},
		{"ping pod to pod", []hop{
			to(abi.ProgFromPod, fromA(echo(a, at(podB, 0))), redirect),
			to(abi.ProgFromPod, fromB(echoReply(at(podB, 0), a)), redirect),
		}},
		{"service and back", []hop{
			to(abi.ProgFromPod, fromA(tcpFrame(a, at(vip, 80), syn)), redirect, fromA(tcpFrame(a, b, syn))),
			to(abi.ProgFromPod, fromB(tcpFrame(b, a, syn|ack)), redirect, fromB(tcpFrame(at(vip, 80), a, syn|ack))),
			to(abi.ProgFromPod, fromA(tcpFrame(a, at(vip, 80), ack)), redirect, fromA(tcpFrame(a, b, ack))),
		}},
		{"service by datagram and back", []hop{
			to(abi.ProgFromPod, fromA(udpFrame(a, at(vip, 80))), redirect, fromA(udpFrame(a, b))),
			to(abi.ProgFromPod, fromB(udpFrame(b, a)), redirect, fromB(udpFrame(at(vip, 80), a))),
		}},
		{"a pod reaches itself through its service", []hop{
			to(abi.ProgFromPod, fromB(udpFrame(at(podB, 40000), at(vip, 80))), redirect, fromB(udpFrame(at(router, 61000), b))),
			to(abi.ProgFromPod, fromB(udpFrame(b, at(router, 61000))), redirect, fromB(udpFrame(at(vip, 80), at(podB, 40000)))),
		}},
		{"service without endpoints resets", []hop{
			refused(abi.ProgFromPod, fromA(tcpFrame(a, at(vip, 81), syn)), reason("no_backend"),
				answered(tcpFrame(at(vip, 81), a, 0), rst|ack, 0, 101).macs(macHost, macA)),
		}},
		{"service without endpoints is unreachable by datagram", []hop{
			refused(abi.ProgFromPod, fromA(udpFrame(a, at(vip, 81))), reason("no_backend"),
				unreachable(vip, podA, udpFrame(a, at(vip, 81))).macs(macHost, macA)),
		}},
		{"middle of an unknown service connection resets", []hop{
			refused(abi.ProgFromPod, fromA(answered(tcpFrame(a, at(vip, 80), 0), ack, 100, 77)), reason("not_syn"),
				answered(tcpFrame(at(vip, 80), a, 0), rst, 77, 0).macs(macHost, macA)),
		}},
		{"address of the service network that nobody has", []hop{
			refused(abi.ProgFromPod, fromA(tcpFrame(a, at(vip, 9), syn)), reason("no_service"),
				answered(tcpFrame(at(vip, 9), a, 0), rst|ack, 0, 101).macs(macHost, macA)),
		}},
		{"address of this node that no pod has", []hop{
			refused(abi.ProgFromPod, fromA(tcpFrame(a, at(noPod, 80), syn)), reason("no_endpoint"),
				answered(tcpFrame(at(noPod, 80), a, 0), rst|ack, 0, 101).macs(macHost, macA)),
		}},
		{"pod to its node", []hop{
			to(abi.ProgFromPod, fromA(tcpFrame(a, node, syn)), pass),
			to(abi.ProgToPod, tcpFrame(node, a, syn|ack), pass),
		}},
		{"node to its pod", []hop{
			to(abi.ProgToPod, tcpFrame(at(nodeIP, 40000), b, syn), pass),
			to(abi.ProgFromPod, fromB(tcpFrame(b, at(nodeIP, 40000), syn|ack)), pass),
		}},
		{"source address of another pod", []hop{
			refused(abi.ProgFromPod, fromA(udpFrame(at(podB, 1), a)), reason("spoofed")),
		}},
		{"source address of nobody", []hop{
			refused(abi.ProgFromPod, fromA(udpFrame(out, b)), reason("spoofed")),
		}},
		{"source MAC of another", []hop{
			refused(abi.ProgFromPod, fromOut(udpFrame(a, b)), reason("spoofed")),
		}},
		{"fragments between pods", []hop{
			to(abi.ProgFromPod, fromA(fragmented(udpFrame(a, b), 0x2000)), redirect),
			to(abi.ProgFromPod, fromA(fragmented(udpFrame(a, b), 0x0003)), redirect),
		}},
		{"fragments to a service", []hop{
			to(abi.ProgFromPod, fromA(fragmented(udpFrame(a, at(vip, 80)), 0x2000)), redirect, fromA(fragmented(udpFrame(a, b), 0x2000))),
			to(abi.ProgFromPod, fromA(rest(podA, vip)), redirect, fromA(rest(podA, podB))),
			to(abi.ProgFromPod, fromB(fragmented(udpFrame(b, a), 0x2000)), redirect, fromB(fragmented(udpFrame(at(vip, 80), a), 0x2000))),
			to(abi.ProgFromPod, fromB(rest(podB, podA)), redirect, fromB(rest(vip, podA))),
		}},
		{"fragments to a node port from outside", []hop{
			to(abi.ProgFromNet, fromOut(fragmented(udpFrame(out, at(nodeIP, 30080)), 0x2000)), redirect, hopped(fromOut(fragmented(udpFrame(out, b), 0x2000)))),
			to(abi.ProgFromNet, fromOut(rest(clientIP, nodeIP)), redirect, hopped(fromOut(rest(clientIP, podB)))),
		}},
		{"fragments to the outside", []hop{
			to(abi.ProgToNet, fragmented(udpFrame(a, out), 0x2000), pass, fragmented(udpFrame(snat, out), 0x2000)),
			to(abi.ProgToNet, rest(podA, clientIP), pass, rest(nodeIP, clientIP)),
		}},
		{"fragment to the outside whose first one did not come yet", []hop{
			to(abi.ProgFromPod, fromA(rest(podA, clientIP)), redirect),
		}},
		{"options and extension headers to a service", []hop{
			to(abi.ProgFromPod, fromA(optioned(tcpFrame(a, at(vip, 80), syn))), redirect, fromA(optioned(tcpFrame(a, b, syn)))),
			to(abi.ProgFromPod, fromB(optioned(tcpFrame(b, a, syn|ack))), redirect, fromB(optioned(tcpFrame(at(vip, 80), a, syn|ack)))),
		}},
		{"node port from outside and back", []hop{
			to(abi.ProgFromNet, fromOut(tcpFrame(out, at(nodeIP, 30080), syn)), redirect, hopped(fromOut(tcpFrame(out, b, syn)))),
			// No route here: the stack gets it as it is, and it leaves rewritten.
			to(abi.ProgFromPod, fromB(tcpFrame(b, out, syn|ack)), pass),
			to(abi.ProgToNet, tcpFrame(b, out, syn|ack), pass, tcpFrame(at(nodeIP, 30080), out, syn|ack)),
			to(abi.ProgFromNet, fromOut(tcpFrame(out, at(nodeIP, 30080), ack)), redirect, hopped(fromOut(tcpFrame(out, b, ack)))),
		}},
		{"node port connection that ended leaves nothing", []hop{
			to(abi.ProgFromNet, fromOut(tcpFrame(out, at(nodeIP, 30080), syn)), redirect, hopped(fromOut(tcpFrame(out, b, syn)))),
			to(abi.ProgToNet, tcpFrame(b, out, syn|ack), pass, tcpFrame(at(nodeIP, 30080), out, syn|ack)),
			to(abi.ProgFromNet, fromOut(tcpFrame(out, at(nodeIP, 30080), fin|ack)), redirect, hopped(fromOut(tcpFrame(out, b, fin|ack)))),
			to(abi.ProgToNet, tcpFrame(b, out, fin|ack), pass, tcpFrame(at(nodeIP, 30080), out, fin|ack)),
			to(abi.ProgFromNet, fromOut(tcpFrame(out, at(nodeIP, 30080), ack)), redirect, hopped(fromOut(tcpFrame(out, b, ack)))),
			// Both entries are gone: on neither side is the flow known.
			refused(abi.ProgFromNet, fromOut(answered(tcpFrame(out, at(nodeIP, 30080), 0), ack, 100, 7)), reason("not_syn"),
				answered(tcpFrame(at(nodeIP, 30080), out, 0), rst, 7, 0).macs(macHost, macOut)),
			to(abi.ProgFromNet, fromOut(tcpFrame(out, b, ack)), redirect, hopped(fromOut(tcpFrame(out, b, ack)))),
		}},
		{"node port served by the node itself", []hop{
			to(abi.ProgFromNet, fromOut(tcpFrame(out, at(nodeIP, 30082), syn)), pass, fromOut(tcpFrame(out, at(nodeIP, 8080), syn))),
			to(abi.ProgToNet, tcpFrame(at(nodeIP, 8080), out, syn|ack), pass, tcpFrame(at(nodeIP, 30082), out, syn|ack)),
		}},
		{"node port without endpoints resets", []hop{
			refused(abi.ProgFromNet, fromOut(tcpFrame(out, at(nodeIP, 30081), syn)), reason("no_backend"),
				answered(tcpFrame(at(nodeIP, 30081), out, 0), rst|ack, 0, 101).macs(macHost, macOut)),
		}},
		{"one client port for two addresses of a service", []hop{
			to(abi.ProgFromNet, fromOut(udpFrame(out, at(nodeIP, 30080))), redirect, hopped(fromOut(udpFrame(out, b)))),
			to(abi.ProgFromNet, fromOut(udpFrame(out, at(vip, 80))), redirect, hopped(fromOut(udpFrame(at(clientIP, 61000), b)))),
			to(abi.ProgToNet, udpFrame(b, at(clientIP, 61000)), pass, udpFrame(at(vip, 80), out)),
			to(abi.ProgToNet, udpFrame(b, out), pass, udpFrame(at(nodeIP, 30080), out)),
		}},
		{"the node's own traffic", []hop{
			to(abi.ProgFromNet, fromOut(tcpFrame(out, node, syn)), pass),
			to(abi.ProgToNet, tcpFrame(node, out, syn|ack), pass),
			to(abi.ProgFromNet, fromOut(udpFrame(out, at(nodeIP, 53))), pass),
		}},
		{"masquerade and back", []hop{
			to(abi.ProgToNet, udpFrame(a, out), pass, udpFrame(snat, out)),
			to(abi.ProgFromNet, fromOut(udpFrame(out, snat)), redirect, hopped(fromOut(udpFrame(out, a)))),
		}},
		{"late packets of a pod's connection to outside that is over", []hop{
			refused(abi.ProgFromPod, fromA(answered(tcpFrame(a, out, 0), ack, 100, 77)), reason("not_syn"),
				answered(tcpFrame(out, a, 0), rst, 77, 0).macs(macHost, macA)),
			refused(abi.ProgFromPod, fromA(tcpFrame(a, out, rst)), reason("not_syn")),
			refused(abi.ProgToNet, tcpFrame(a, out, ack), reason("not_syn")),
			refused(abi.ProgToNet, tcpFrame(a, out, fin|ack), reason("not_syn")),
		}},
		{"masquerade of a ping and back", []hop{
			to(abi.ProgToNet, echo(a, at(clientIP, 0)), pass, echo(snat, at(clientIP, 0))),
			to(abi.ProgFromNet, fromOut(echoReply(at(clientIP, 0), snat)), redirect, hopped(fromOut(echoReply(at(clientIP, 0), a)))),
		}},
		{"masquerade without a free port", []hop{
			to(abi.ProgToNet, udpFrame(a, out), pass, udpFrame(snat, out)),
			refused(abi.ProgToNet, udpFrame(at(podB, 7), out), reason("ports_exhausted")),
		}},
		{"masquerade takes the port of a flow that was reset", []hop{
			to(abi.ProgToNet, tcpFrame(a, out, syn), pass, tcpFrame(snat, out, syn)),
			refused(abi.ProgToNet, tcpFrame(at(podB, 7), out, syn), reason("ports_exhausted")),
			to(abi.ProgFromNet, fromOut(tcpFrame(out, snat, rst)), redirect, hopped(fromOut(tcpFrame(out, a, rst)))),
			to(abi.ProgToNet, tcpFrame(at(podB, 7), out, syn), pass, tcpFrame(snat, out, syn)),
			to(abi.ProgFromNet, fromOut(tcpFrame(out, snat, syn|ack)), redirect, hopped(fromOut(tcpFrame(out, at(podB, 7), syn|ack)))),
			// The other is not heard under its name.
			refused(abi.ProgToNet, tcpFrame(a, out, ack), reason("not_syn")),
		}},
		{"outside with the source of a pod of this node", []hop{
			refused(abi.ProgFromNet, fromOut(udpFrame(a, b)), reason("spoofed")),
			refused(abi.ProgFromNet, fromOut(tcpFrame(a, node, syn)), reason("spoofed")),
		}},
		{"outside to a pod", []hop{
			to(abi.ProgFromNet, fromOut(udpFrame(out, b)), redirect, hopped(fromOut(udpFrame(out, b)))),
		}},
		{"last hop from outside is the stack's to answer", []hop{
			to(abi.ProgFromNet, fromOut(expiring(udpFrame(out, b))), pass),
		}},
	}
	o := testNode(t)
	for _, r := range rows {
		live(t, o, r.name, r.life)
	}
}

// TestMalformed sends frames that are not what they claim to be.
func TestMalformed(t *testing.T) {
	o := testNode(t)
	whole := fromA(tcpFrame(a, b, syn)).bytes()
	with := func(offset int, value byte) []byte {
		f := append([]byte(nil), whole...)
		f[offset] = value
		return f
	}
	six := fromA(tcpFrame(a, b, syn)).six().bytes()
	long := fromA(optioned(tcpFrame(a, b, syn))).six().bytes()
	long[14+40+1] = 0xff
	rows := []struct {
		name    string
		in      []byte
		verdict uint32 // of from_pod; the others let it pass
		reason  string
	}{
		{"IP header length below its minimum", with(14, 0x44), drop, "malformed"},
		{"IP header longer than the frame", with(14, 0x4f), drop, "malformed"},
		{"TCP header cut short", whole[:14+20+12], drop, "malformed"},
		{"neither IPv4 nor IPv6", with(12, 0x86), drop, "unsupported"},
		{"IPv6 with a TCP header cut short", six[:14+40+12], drop, "malformed"},
		{"IPv6 whose extension header is longer than the frame", long, drop, "malformed"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			before := drops(t, o, int(reason(r.reason)))
			if verdict, _ := run(t, o, abi.ProgFromPod, r.in); verdict != r.verdict {
				t.Errorf("from_pod: verdict %d, want %d", verdict, r.verdict)
			}
			if drops(t, o, int(reason(r.reason))) != before+1 {
				t.Errorf("from_pod: %s was not counted", r.reason)
			}
			for _, program := range []string{abi.ProgToPod, abi.ProgFromNet, abi.ProgToNet} {
				if verdict, _ := run(t, o, program, r.in); verdict != pass {
					t.Errorf("%s: verdict %d, want %d", program, verdict, pass)
				}
			}
		})
	}
}

// TestNeighbour: what IPv6 says on the link reaches the stack if it speaks for
// the pod or for nobody.
func TestNeighbour(t *testing.T) {
	o := testNode(t)
	solicitation := func(src netip.Addr) []byte {
		f := frame{src: at(src, 0), dst: at(six(router), 0), proto: unix.IPPROTO_ICMP, ttl: 255, icmp: icmpKind{1: {135, 0}}, payload: "the target's address"}
		return fromA(f).bytes()
	}
	for _, r := range []struct {
		name    string
		src     netip.Addr
		verdict uint32
	}{
		{"address of nobody yet", netip.IPv6Unspecified(), pass},
		{"address of the link", netip.MustParseAddr("fe80::1"), pass},
		{"own address", six(podA), pass},
		{"address that no pod has", six(noPod), drop},
	} {
		if verdict, _ := run(t, o, abi.ProgFromPod, solicitation(r.src)); verdict != r.verdict {
			t.Errorf("%s: verdict %d, want %d", r.name, verdict, r.verdict)
		}
	}
}

func TestARP(t *testing.T) {
	o := testNode(t)
	// arp asks for the router with a sender of the given address and MAC.
	arp := func(sender byte, mac byte) []byte {
		return []byte{
			0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, mac, 8, 6,
			0, 1, 8, 0, 6, 4, 0, 1,
			2, 0, 0, 0, 0, mac, 10, 244, 0, sender,
			0, 0, 0, 0, 0, 0, 10, 244, 0, 1,
		}
	}
	if verdict, _ := run(t, o, abi.ProgFromPod, arp(2, macA)); verdict != pass {
		t.Errorf("own address: verdict %d, want %d", verdict, pass)
	}
	for name, in := range map[string][]byte{"address of nobody": arp(99, macA), "MAC of another": arp(2, macB)} {
		if verdict, _ := run(t, o, abi.ProgFromPod, in); verdict != drop {
			t.Errorf("%s: verdict %d, want %d", name, verdict, drop)
		}
	}
}

// BenchmarkPacket measures one packet of a flow in the table, hot.
func BenchmarkPacket(b0 *testing.B) {
	rows := []struct {
		name    string
		program string
		in      frame
	}{
		{"from_pod/established", abi.ProgFromPod, fromA(udpFrame(a, b))},
		{"to_pod/established", abi.ProgToPod, udpFrame(at(nodeIP, 1), b)},
		{"from_net/host", abi.ProgFromNet, fromOut(answered(tcpFrame(out, node, 0), ack, 1, 1))},
		{"to_net/host", abi.ProgToNet, answered(tcpFrame(node, out, 0), ack, 1, 1)},
	}
	for _, r := range rows {
		b0.Run(r.name, func(b *testing.B) {
			o := testNode(b)
			in := r.in.bytes()
			run(b, o, r.program, in)
			b.ResetTimer()
			_, took, err := o.Program(r.program).Benchmark(in, b.N, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
		})
	}
}

func expiring(f frame) frame {
	f.ttl = 1
	return f
}

// reason is the number of a drop reason by its name.
func reason(name string) abi.DropReason {
	names, err := abi.ReadNames()
	if err != nil {
		panic(err)
	}
	for i, n := range names.Reasons {
		if n == name {
			return abi.DropReason(i)
		}
	}
	panic("no drop reason " + name)
}
