package packet_test

import (
	"net/netip"
	"testing"

	"github.com/skep-io/skep/datapath/abi"
)

// hopIP is a router on the way outside.
var hopIP = netip.MustParseAddr("198.51.100.1")

// TestReports follows ICMP errors about translated flows: who gets one finds
// the packet quoted that it sent, and as the source whom it sent it to.
func TestReports(t *testing.T) {
	var (
		vip80  = at(vip, 80)
		front  = at(nodeIP, 30080)
		served = at(nodeIP, 30082)
		onNode = at(nodeIP, 8080)

		toService  = to(abi.ProgFromPod, fromA(tcpFrame(a, vip80, syn)), redirect, fromA(tcpFrame(a, b, syn)))
		toNodePort = to(abi.ProgFromNet, fromOut(tcpFrame(out, front, syn)), redirect, hopped(fromOut(tcpFrame(out, b, syn))))
		toHost     = to(abi.ProgFromNet, fromOut(tcpFrame(out, served, syn)), pass, fromOut(tcpFrame(out, onNode, syn)))
		away       = to(abi.ProgToNet, tcpFrame(a, out, syn), pass, tcpFrame(snat, out, syn))
	)
	rows := []struct {
		name string
		life []hop
	}{
		{"backend to the pod that asked its service", []hop{
			toService,
			to(abi.ProgFromPod, fromB(report(portUnreachable, podB, podA, tcpFrame(a, b, syn))), redirect,
				fromB(report(portUnreachable, vip, podA, tcpFrame(a, vip80, syn)))),
		}},
		{"backend to the pod that asked its service by datagram", []hop{
			to(abi.ProgFromPod, fromA(udpFrame(a, vip80)), redirect, fromA(udpFrame(a, b))),
			to(abi.ProgFromPod, fromB(report(portUnreachable, podB, podA, udpFrame(a, b))), redirect,
				fromB(report(portUnreachable, vip, podA, udpFrame(a, vip80).summedAs(udpFrame(a, b))))),
		}},
		{"pod to the backend that answered it", []hop{
			toService,
			to(abi.ProgFromPod, fromA(report(portUnreachable, podA, vip, tcpFrame(vip80, a, syn|ack))), redirect,
				fromA(report(portUnreachable, podA, podB, tcpFrame(b, a, syn|ack)))),
		}},
		{"pod to itself through its service", []hop{
			to(abi.ProgFromPod, fromB(tcpFrame(at(podB, 40000), vip80, syn)), redirect, fromB(tcpFrame(at(router, 61000), b, syn))),
			to(abi.ProgFromPod, fromB(report(portUnreachable, podB, router, tcpFrame(at(router, 61000), b, syn))), redirect,
				fromB(report(portUnreachable, vip, podB, tcpFrame(at(podB, 40000), vip80, syn)))),
		}},
		{"the stack to a pod: too large on the way to a backend", []hop{
			toService,
			to(abi.ProgToPod, report(tooLarge, router, podA, tcpFrame(a, b, syn)), pass,
				report(tooLarge, router, podA, tcpFrame(a, vip80, syn))),
		}},
		{"backend of a node port to the outside", []hop{
			toNodePort,
			// No route here: the stack gets it as it is, and it leaves rewritten.
			to(abi.ProgFromPod, fromB(report(portUnreachable, podB, clientIP, tcpFrame(out, b, syn))), pass),
			to(abi.ProgToNet, report(portUnreachable, podB, clientIP, tcpFrame(out, b, syn)), pass,
				report(portUnreachable, nodeIP, clientIP, tcpFrame(out, front, syn))),
		}},
		{"the stack to the outside: expired on the way to a backend", []hop{
			toNodePort,
			to(abi.ProgToNet, report(expired, nodeIP, clientIP, tcpFrame(out, b, syn)), pass,
				report(expired, nodeIP, clientIP, tcpFrame(out, front, syn))),
		}},
		{"the node itself as backend of a node port", []hop{
			toHost,
			to(abi.ProgToNet, report(portUnreachable, nodeIP, clientIP, tcpFrame(out, onNode, syn)), pass,
				report(portUnreachable, nodeIP, clientIP, tcpFrame(out, served, syn))),
		}},
		{"router outside to a backend: too large", []hop{
			toNodePort,
			to(abi.ProgFromNet, fromOut(report(tooLarge, hopIP, nodeIP, tcpFrame(front, out, ack))), redirect,
				hopped(fromOut(report(tooLarge, hopIP, podB, tcpFrame(b, out, ack))))),
		}},
		{"router outside to the node as backend: too large", []hop{
			toHost,
			to(abi.ProgFromNet, fromOut(report(tooLarge, hopIP, nodeIP, tcpFrame(served, out, ack))), pass,
				fromOut(report(tooLarge, hopIP, nodeIP, tcpFrame(onNode, out, ack)))),
		}},
		{"router outside to a masqueraded pod: expired", []hop{
			away,
			to(abi.ProgFromNet, fromOut(report(expired, hopIP, nodeIP, tcpFrame(snat, out, syn))), redirect,
				hopped(fromOut(report(expired, hopIP, podA, tcpFrame(a, out, syn))))),
		}},
		{"router outside to a masqueraded pod: ping expired", []hop{
			to(abi.ProgToNet, echo(a, at(clientIP, 0)), pass, echo(snat, at(clientIP, 0))),
			to(abi.ProgFromNet, fromOut(report(expired, hopIP, nodeIP, echo(snat, at(clientIP, 0)))), redirect,
				hopped(fromOut(report(expired, hopIP, podA, echo(a, at(clientIP, 0)).summedAs(echo(snat, at(clientIP, 0))))))),
		}},
		{"masqueraded pod to the outside", []hop{
			away,
			to(abi.ProgFromPod, fromA(report(portUnreachable, podA, clientIP, tcpFrame(out, a, ack))), pass),
			to(abi.ProgToNet, report(portUnreachable, podA, clientIP, tcpFrame(out, a, ack)), pass,
				report(portUnreachable, nodeIP, clientIP, tcpFrame(out, snat, ack))),
		}},
		{"about the node's own traffic", []hop{
			to(abi.ProgFromNet, fromOut(report(expired, hopIP, nodeIP, tcpFrame(node, out, syn))), pass),
			to(abi.ProgToNet, report(portUnreachable, nodeIP, clientIP, udpFrame(out, node)), pass),
		}},
		{"pod that reports on what another was sent", []hop{
			toService,
			to(abi.ProgFromPod, fromB(report(portUnreachable, podB, podA, tcpFrame(a, at(noPod, 8080), syn))), redirect),
			refused(abi.ProgFromPod, fromB(report(portUnreachable, podA, podB, tcpFrame(b, a, syn))), reason("spoofed")),
		}},
		{"addressed to another than the quoted sender", []hop{
			away,
			to(abi.ProgFromNet, fromOut(report(expired, hopIP, podB, tcpFrame(snat, out, syn))), pass),
		}},
		{"cut short", []hop{
			away,
			to(abi.ProgFromNet, fromOut(cut(report(expired, hopIP, nodeIP, tcpFrame(snat, out, syn)), 30)), pass),
		}},
	}
	o := testNode(t)
	for _, r := range rows {
		live(t, o, r.name, r.life)
	}
}

// cut leaves the first bytes of what follows the IP header.
func cut(f frame, length int) frame {
	f.length = length
	return f
}
