package packet_test

import (
	"net/netip"
	"testing"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
)

// Numbers of the tests' policies.
const (
	egressA  = 1 // the set of what pod A sends
	ingressB = 2 // the set of what pod B is sent
	whoA     = abi.PeerCount
	whoB     = abi.PeerCount + 1
	web      = abi.PortsAll + 1 // TCP 8080 to 8095
)

// policies writes the rows of both families. Pod A is isolated by egressA, pod B by ingressB.
type policies struct {
	t testing.TB
	o *load.Objects
}

func isolate(t testing.TB, o *load.Objects, egress, ingress uint32) policies {
	p := policies{t, o}
	p.put(abi.MapControl, uint32(0), abi.Control{Isolation: 1, Epoch: 1})
	for _, of := range []func(netip.Addr) netip.Addr{func(a netip.Addr) netip.Addr { return a }, six} {
		p.put(abi.MapEndpoint, abi.AddrFrom(of(podA)), abi.Endpoint{Ifindex: lo, Mac: [6]uint8{2, 0, 0, 0, 0, macA}, Egress: egress})
		p.put(abi.MapEndpoint, abi.AddrFrom(of(podB)), abi.Endpoint{Ifindex: lo, Mac: [6]uint8{2, 0, 0, 0, 0, macB}, Ingress: ingress})
		p.put(abi.MapIdentity, abi.AddrFrom(of(podA)), uint32(whoA))
		p.put(abi.MapIdentity, abi.AddrFrom(of(podB)), uint32(whoB))
	}
	p.put(abi.MapPorts, abi.PortKey{Bits: 48 + 12, Set: uint32(web), Proto: 6, Port: abi.Port(8080)}, uint32(1))
	return p
}

func (p policies) put(name string, key, value any) {
	p.t.Helper()
	if err := p.o.Map(name).Put(key, value); err != nil {
		p.t.Fatal(err)
	}
}

func (p policies) allow(set uint32, peer abi.PolicyPeer, ports abi.PolicyPorts) {
	p.t.Helper()
	p.put(abi.MapPolicy, abi.PolicyKey{Set: set, Peer: peer}, ports)
}

func (p policies) block(set uint32, prefix netip.Prefix, ports abi.PolicyPorts) {
	p.t.Helper()
	p.put(abi.MapCIDR, abi.CIDRKey{Bits: uint32(32 + 96 + prefix.Bits()), Set: set, Addr: abi.AddrFrom(prefix.Masked().Addr())}, ports)
	twin := sixPrefix(prefix)
	p.put(abi.MapCIDR, abi.CIDRKey{Bits: uint32(32 + twin.Bits()), Set: set, Addr: abi.AddrFrom(twin.Masked().Addr())}, ports)
}

// forbid takes a row away and lets flows decide anew.
func (p policies) forbid(set uint32, peer abi.PolicyPeer) {
	p.t.Helper()
	if err := p.o.Map(abi.MapPolicy).Delete(abi.PolicyKey{Set: set, Peer: peer}); err != nil {
		p.t.Fatal(err)
	}
	p.put(abi.MapControl, uint32(0), abi.Control{Isolation: 1, Epoch: 2})
}

// denied is a packet that is dropped without an answer.
func denied(program string, in frame, why string) hop {
	return refused(program, in, reason(why))
}

// TestPolicy follows packets of isolated pods.
func TestPolicy(t *testing.T) {
	ab, ba := tcpFrame(a, b, syn), tcpFrame(b, a, syn|ack)
	other := at(podB, 9000)
	for _, r := range []struct {
		name            string
		egress, ingress uint32
		rows            func(policies)
		life            []hop
	}{
		{"nothing allowed to send", egressA, 0, func(policies) {}, []hop{
			denied(abi.ProgFromPod, fromA(ab), "policy_egress"),
			denied(abi.ProgFromPod, fromA(echo(a, at(podB, 0))), "policy_egress"),
			denied(abi.ProgFromPod, fromA(tcpFrame(a, at(vip, 80), syn)), "policy_egress"),
			denied(abi.ProgFromPod, fromA(udpFrame(a, at(router, 53))), "policy_egress"),
			to(abi.ProgFromPod, fromA(tcpFrame(a, node, syn)), pass), // its node
		}},
		{"nothing allowed to receive", 0, ingressB, func(policies) {}, []hop{
			denied(abi.ProgFromPod, fromA(ab), "policy_ingress"),
			denied(abi.ProgFromNet, fromOut(udpFrame(out, b)), "policy_ingress"),
			denied(abi.ProgFromNet, fromOut(tcpFrame(out, at(nodeIP, 30080), syn)), "policy_ingress"),
			denied(abi.ProgToPod, udpFrame(out, b), "policy_ingress"),
			to(abi.ProgToPod, tcpFrame(at(nodeIP, 40000), b, syn), pass), // the node's probes
			to(abi.ProgFromPod, fromB(tcpFrame(b, at(nodeIP, 40000), syn|ack)), pass),
		}},
		{"who says to be the node but comes from outside", 0, ingressB, func(policies) {}, []hop{
			denied(abi.ProgFromNet, fromOut(udpFrame(at(nodeIP, 9), b)), "policy_ingress"),
		}},
		{"both ends allow, and the answer passes", egressA, ingressB, func(p policies) {
			p.allow(egressA, whoB, web)
			p.allow(ingressB, whoA, web)
		}, []hop{
			to(abi.ProgFromPod, fromA(ab), redirect),
			to(abi.ProgFromPod, fromB(ba), redirect),
			denied(abi.ProgFromPod, fromA(tcpFrame(a, other, syn)), "policy_egress"),
			denied(abi.ProgFromPod, fromA(udpFrame(a, b)), "policy_egress"),
			denied(abi.ProgFromPod, fromA(echo(a, at(podB, 0))), "policy_egress"),
			// An error about no flow, behind a packet of one.
			to(abi.ProgFromPod, fromA(tcpFrame(a, b, ack)), redirect),
			denied(abi.ProgFromPod, fromA(cut(report(portUnreachable, podA, podB, ba), 32)), "policy_egress"),
		}},
		{"answers to what an isolated pod sends", 0, ingressB, func(policies) {}, []hop{
			to(abi.ProgFromPod, fromB(tcpFrame(b, a, syn)), redirect),
			to(abi.ProgFromPod, fromA(tcpFrame(a, b, syn|ack)), redirect),
		}},
		{"range of ports by a prefix", egressA, 0, func(p policies) { p.allow(egressA, abi.PeerPod, web) }, []hop{
			to(abi.ProgFromPod, fromA(tcpFrame(a, at(podB, 8095), syn)), redirect),
			denied(abi.ProgFromPod, fromA(tcpFrame(a, at(podB, 8096), syn)), "policy_egress"),
		}},
		{"ping needs a rule without ports", egressA, 0, func(p policies) { p.allow(egressA, abi.PeerAny, abi.PortsAll) }, []hop{
			to(abi.ProgFromPod, fromA(echo(a, at(podB, 0))), redirect),
			to(abi.ProgFromPod, fromB(echoReply(at(podB, 0), a)), redirect),
		}},
		{"service: the backend counts", egressA, 0, func(p policies) { p.allow(egressA, whoB, web) }, []hop{
			to(abi.ProgFromPod, fromA(tcpFrame(a, at(vip, 80), syn)), redirect, fromA(ab)),
			to(abi.ProgFromPod, fromB(ba), redirect, fromB(tcpFrame(at(vip, 80), a, syn|ack))),
		}},
		{"a pod reaches itself through its service", 0, ingressB, func(policies) {}, []hop{
			to(abi.ProgFromPod, fromB(udpFrame(at(podB, 40000), at(vip, 80))), redirect, fromB(udpFrame(at(router, 61000), b))),
		}},
		{"cluster DNS is a peer of its own", egressA, 0, func(p policies) { p.allow(egressA, abi.PeerDNS, abi.PortsAll) }, []hop{
			to(abi.ProgFromPod, fromA(udpFrame(a, at(router, 53))), pass),
			denied(abi.ProgFromPod, fromA(ab), "policy_egress"),
		}},
		{"block without what is excepted", 0, ingressB, func(p policies) {
			p.block(ingressB, netip.MustParsePrefix("192.0.2.0/24"), abi.PortsAll)
			p.block(ingressB, netip.MustParsePrefix("192.0.2.64/26"), abi.PortsNone)
		}, []hop{
			to(abi.ProgFromNet, fromOut(tcpFrame(out, at(nodeIP, 30080), syn)), redirect, hopped(fromOut(tcpFrame(out, b, syn)))),
			denied(abi.ProgFromNet, fromOut(udpFrame(at(netip.MustParseAddr("192.0.2.65"), 1), b)), "policy_ingress"),
			denied(abi.ProgFromPod, fromA(ab), "policy_ingress"),
		}},
		{"block of a pod's address", 0, ingressB, func(p policies) { p.block(ingressB, netip.PrefixFrom(podA, 32), web) }, []hop{
			to(abi.ProgFromPod, fromA(ab), redirect),
			denied(abi.ProgFromPod, fromA(udpFrame(a, b)), "policy_ingress"),
		}},
	} {
		o := testNode(t)
		r.rows(isolate(t, o, r.egress, r.ingress))
		live(t, o, r.name, r.life)
	}
}

// TestPolicyEdit cuts a connection that is not allowed any more, in both directions and through a Service too.
func TestPolicyEdit(t *testing.T) {
	for _, r := range []struct {
		name   string
		to     netip.AddrPort
		set    uint32
		reason string
	}{
		{"sender", b, egressA, "policy_egress"},
		{"receiver", b, ingressB, "policy_ingress"},
		{"sender to a service", at(vip, 80), egressA, "policy_egress"},
		{"receiver behind a service", at(vip, 80), ingressB, "policy_ingress"},
	} {
		t.Run(r.name, func(t *testing.T) {
			o := testNode(t)
			p := isolate(t, o, egressA, ingressB)
			p.allow(egressA, whoB, web)
			p.allow(ingressB, whoA, web)
			for _, h := range []hop{
				to(abi.ProgFromPod, fromA(tcpFrame(a, r.to, syn)), redirect, fromA(tcpFrame(a, b, syn))),
				to(abi.ProgFromPod, fromB(tcpFrame(b, a, syn|ack)), redirect, fromB(tcpFrame(r.to, a, syn|ack))),
			} {
				h.check(t, o)
			}
			p.forbid(r.set, map[uint32]abi.PolicyPeer{egressA: whoB, ingressB: whoA}[r.set])
			denied(abi.ProgFromPod, fromA(tcpFrame(a, r.to, ack)), r.reason).check(t, o)
			denied(abi.ProgFromPod, fromB(tcpFrame(b, a, ack)), r.reason).check(t, o)
			p.allow(egressA, whoB, abi.PortsAll)
			p.allow(ingressB, whoA, abi.PortsAll)
			to(abi.ProgFromPod, fromA(tcpFrame(a, r.to, ack)), redirect, fromA(tcpFrame(a, b, ack))).check(t, o)
		})
	}
}

// BenchmarkPolicy measures a packet that is decided anew: denied ones are each time.
func BenchmarkPolicy(b0 *testing.B) {
	for _, r := range []struct {
		name string
		rows uint32
	}{{"1 rule", 1}, {"10000 rules", 10000}} {
		b0.Run(r.name, func(tb *testing.B) {
			o := testNode(tb)
			p := isolate(tb, o, egressA, ingressB)
			p.allow(egressA, whoB, web)
			for i := range r.rows {
				p.allow(ingressB, whoB+1+abi.PolicyPeer(i), web)
				p.put(abi.MapPorts, abi.PortKey{Bits: 64, Set: uint32(web) + i, Proto: 6, Port: abi.Port(uint16(i))}, uint32(1))
				p.put(abi.MapCIDR, abi.CIDRKey{Bits: 160, Set: ingressB, Addr: abi.AddrFrom(netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)}))}, web)
			}
			in := fromA(udpFrame(a, b)).bytes()
			p.allow(egressA, whoB, abi.PortsAll)
			tb.ResetTimer()
			_, took, err := o.Program(abi.ProgFromPod).Benchmark(in, tb.N, nil)
			if err != nil {
				tb.Fatal(err)
			}
			tb.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
		})
	}
}
