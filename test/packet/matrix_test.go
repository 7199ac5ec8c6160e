package packet_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
)

// way is a way from a client to a backend, and back.
type way struct {
	name string
	// What the client sends from and to, and what the backend gets.
	client, front, seen, backend netip.AddrPort
	there, back                  station
	// early is what becomes of a fragment that comes before the first one.
	early func(w way, f frame) hop
}

// station is the program that a way's packets pass in one direction.
type station struct {
	program string
	verdict uint32
	dress   func(frame) frame // gives it the MAC addresses of the link
	hopped  bool              // it takes one from the TTL
}

// Addresses of the matrix alone.
var (
	lbIP    = netip.MustParseAddr("203.0.113.7")
	remote  = at(netip.MustParseAddr("10.244.1.9"), 8080)
	onNode  = at(nodeIP, 8080)
	hairpin = at(podB, 40000)
)

func undressed(f frame) frame { return f }

// round and stacked are for early.
func round(w way, f frame) hop { return to(w.there.program, w.there.dress(f), redirect) }

func stacked(w way, f frame) hop { return to(w.there.program, w.there.dress(f), pass) }

// ways are those of packets. Sockets of the node itself (127.0.0.1, the node's own processes) never send such: TestLive has them.
func ways() []way {
	var (
		podIn  = station{abi.ProgFromPod, redirect, fromA, false}
		podB   = station{abi.ProgFromPod, redirect, fromB, false}
		netIn  = station{abi.ProgFromNet, redirect, fromOut, true}
		netOut = station{abi.ProgToNet, pass, undressed, false}
		passed = station{abi.ProgFromNet, pass, fromOut, false}
	)
	return []way{
		{"ClusterIP", a, at(vip, 80), a, b, podIn, podB, round},
		{"hairpin", hairpin, at(vip, 80), at(router, 61000), b, podB, podB, round},
		{"NodePort", out, at(nodeIP, 30080), out, b, netIn, netOut, round},
		{"NodePort SNAT", out, at(nodeIP, 30083), snat, remote, passed, passed, round},
		{"load balancer IP", out, at(lbIP, 80), out, b, netIn, netOut, round},
		{"host port", out, at(nodeIP, 8081), out, b, netIn, netOut, round},
		{"the node as backend", out, at(nodeIP, 30082), out, onNode, passed, netOut, round},
		{"masquerade", a, out, snat, out, netOut, netIn, stacked},
	}
}

// matrixNode is a test node with what the ways need besides.
func matrixNode(t *testing.T) *load.Objects {
	o := testNode(t)
	for i, make := range []func(uint32, []netip.AddrPort, []netip.AddrPort) service{tcp, udp} {
		id := uint32(20 + 10*i)
		for _, s := range []service{
			make(id, list(at(anyIP, 30082)), list(onNode)),
			make(id+1, list(at(anyIP, 30083)), list(remote)),
			make(id+2, list(at(lbIP, 80), at(anyIP, 8081)), list(b)),
		} {
			for _, s := range []service{s, s.six()} {
				if err := s.write(o); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return o
}

// passing is a hop of a frame at a station, which makes another of it.
func (s station) passing(in, out frame) hop {
	if s.hopped {
		out = hopped(out)
	}
	return to(s.program, s.dress(in), s.verdict, s.dress(out))
}

// ask and reply are hops of a frame that shape makes, from one end to the other.
func (w way) ask(shape func(src, dst netip.AddrPort) frame) hop {
	return w.there.passing(shape(w.client, w.front), shape(w.seen, w.backend))
}

func (w way) reply(shape func(src, dst netip.AddrPort) frame) hop {
	return w.back.passing(shape(w.backend, w.seen), shape(w.front, w.client))
}

// shape is a kind of packet between two ends.
type shape func(src, dst netip.AddrPort) frame

func flags(f uint8) shape {
	return func(src, dst netip.AddrPort) frame { return tcpFrame(src, dst, f) }
}

func (s shape) with(change func(frame) frame) shape {
	return func(src, dst netip.AddrPort) frame { return change(s(src, dst)) }
}

func first(f frame) frame { return fragmented(f, 0x2000) }

func later(src, dst netip.AddrPort) frame { return rest(src.Addr(), dst.Addr()) }

// RFC 7323 and RFC 7413.
func timestamped(f frame) frame {
	f.tcpOptions = []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0}
	return f
}

func fastOpen(f frame) frame {
	f.tcpOptions = []byte{1, 1, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	f.payload = "early data"
	return f
}

func (w way) opened() []hop {
	return []hop{w.ask(flags(syn)), w.reply(flags(syn | ack)), w.ask(flags(ack))}
}

// occurrence is what happens to a flow.
type occurrence struct {
	name string
	life func(w way) []hop
}

// tcpCases are what happens to a connection, by name.
var tcpCases = []occurrence{
	{"open, data, end", func(w way) []hop {
		data := shape(flags(ack)).with(func(f frame) frame { f.payload = "payload"; return f })
		return append(w.opened(), w.ask(data), w.reply(data), w.ask(flags(fin|ack)), w.reply(flags(fin|ack)), w.ask(flags(ack)))
	}},
	{"IP options or extension headers", func(w way) []hop {
		return []hop{w.ask(shape(flags(syn)).with(optioned)), w.reply(shape(flags(syn | ack)).with(optioned)), w.ask(flags(ack))}
	}},
	{"timestamps", func(w way) []hop {
		return []hop{w.ask(shape(flags(syn)).with(timestamped)), w.reply(shape(flags(syn | ack)).with(timestamped)), w.ask(shape(flags(ack)).with(timestamped))}
	}},
	{"fast open", func(w way) []hop {
		return []hop{w.ask(shape(flags(syn)).with(fastOpen)), w.reply(flags(syn | ack)), w.ask(flags(ack))}
	}},
	{"port reused at once", func(w way) []hop {
		ended := append(w.opened(), w.reply(flags(fin|ack)), w.ask(flags(fin|ack)), w.reply(flags(ack)))
		return append(ended, w.opened()...)
	}},
	{"port reused after a reset", func(w way) []hop {
		return append(append(w.opened(), w.ask(flags(rst))), w.opened()...)
	}},
	{"simultaneous close", func(w way) []hop {
		return append(w.opened(), w.ask(flags(fin|ack)), w.reply(flags(fin|ack)), w.reply(flags(fin|ack)), w.ask(flags(ack)))
	}},
	{"half-open: the client forgot", func(w way) []hop {
		return append(w.opened(), w.ask(flags(syn)), w.reply(flags(ack)), w.ask(flags(rst)), w.ask(flags(syn)), w.reply(flags(syn|ack)))
	}},
	{"reset by the backend", func(w way) []hop {
		return append(w.opened(), w.reply(flags(rst)))
	}},
	{"TTL expires", func(w way) []hop { return w.expires(flags(syn)) }},
}

var udpCases = []occurrence{
	{"datagram and answer", func(w way) []hop { return []hop{w.ask(udpFrame), w.reply(udpFrame), w.ask(udpFrame)} }},
	{"IP options or extension headers", func(w way) []hop {
		return []hop{w.ask(shape(udpFrame).with(optioned)), w.reply(shape(udpFrame).with(optioned))}
	}},
	{"fragments", func(w way) []hop {
		return []hop{w.ask(shape(udpFrame).with(first)), w.ask(later), w.reply(shape(udpFrame).with(first)), w.reply(later)}
	}},
	{"fragments out of order", func(w way) []hop {
		last := w.early(w, later(w.client, w.front))
		return []hop{last, last, w.ask(shape(udpFrame).with(first)), w.ask(later)}
	}},
	{"empty datagram", func(w way) []hop {
		empty := shape(udpFrame).with(func(f frame) frame { f.payload = ""; return f })
		return []hop{w.ask(empty), w.reply(empty)}
	}},
	{"TTL expires", func(w way) []hop { return w.expires(udpFrame) }},
}

// expires: where a router would, the stack is left to answer about a packet on its last hop, which it gets translated: its answer
// is translated back. Elsewhere a pod and its node are one hop.
func (w way) expires(s shape) []hop {
	h := w.ask(s.with(expiring))
	if w.there.hopped {
		translated := w.there.dress(expiring(s(w.seen, w.backend)))
		h.verdict, h.out = pass, &translated
	}
	return []hop{h}
}

// icmpCases are errors about a flow that a datagram or an opening began.
var icmpCases = []occurrence{
	{"backend's port unreachable, TCP", func(w way) []hop {
		return []hop{w.ask(flags(syn)), w.backendReports(portUnreachable, flags(syn))}
	}},
	{"backend's port unreachable, UDP", func(w way) []hop {
		return []hop{w.ask(udpFrame), w.backendReports(portUnreachable, udpFrame)}
	}},
	{"client's port unreachable, TCP", func(w way) []hop {
		return []hop{w.ask(flags(syn)), w.reply(flags(syn | ack)), w.clientReports(portUnreachable, flags(syn|ack))}
	}},
	{"client's port unreachable, UDP", func(w way) []hop {
		return []hop{w.ask(udpFrame), w.reply(udpFrame), w.clientReports(portUnreachable, udpFrame)}
	}},
	{"too large for the backend", func(w way) []hop {
		return []hop{w.ask(flags(syn)), w.backendReports(tooLarge, flags(syn))}
	}},
	{"too large for the client", func(w way) []hop {
		return []hop{w.ask(flags(syn)), w.reply(flags(syn | ack)), w.clientReports(tooLarge, flags(syn|ack))}
	}},
	{"expired before the backend", func(w way) []hop {
		return []hop{w.ask(udpFrame), w.backendReports(expired, udpFrame)}
	}},
}

// backendReports is an ICMP error about a packet to the backend, from there; clientReports one about an answer.
func (w way) backendReports(kind icmpKind, about shape) hop {
	return w.back.passing(
		report(kind, w.backend.Addr(), w.seen.Addr(), about(w.seen, w.backend)),
		report(kind, w.front.Addr(), w.client.Addr(), about(w.client, w.front).quotedAs(about(w.seen, w.backend))))
}

func (w way) clientReports(kind icmpKind, about shape) hop {
	return w.there.passing(
		report(kind, w.client.Addr(), w.front.Addr(), about(w.front, w.client)),
		report(kind, w.seen.Addr(), w.backend.Addr(), about(w.backend, w.seen).quotedAs(about(w.front, w.client))))
}

// quotedAs leaves the UDP checksum of what is quoted as it was: eight bytes do not let it be checked.
func (f frame) quotedAs(was frame) frame {
	if f.proto == unix.IPPROTO_UDP {
		return f.summedAs(was)
	}
	return f
}

// TestMatrix sends what can happen to a flow down every way, in both families, and prints what passed of what there is.
func TestMatrix(t *testing.T) {
	o := matrixNode(t)
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tTCP v4\tTCP v6\tUDP v4\tUDP v6\tICMP v4\tICMP v6")
	for _, way := range ways() {
		fmt.Fprint(w, way.name)
		for _, cases := range []struct {
			proto string
			list  []occurrence
		}{{"TCP", tcpCases}, {"UDP", udpCases}, {"ICMP", icmpCases}} {
			for _, v6 := range []bool{false, true} {
				passed := 0
				for _, c := range cases.list {
					name := fmt.Sprintf("%s/%s/v%d/%s", way.name, cases.proto, map[bool]int{false: 4, true: 6}[v6], c.name)
					if t.Run(name, func(t *testing.T) { follow(t, o, c.life(way), v6) }) {
						passed++
					}
				}
				fmt.Fprintf(w, "\t%d/%d", passed, len(cases.list))
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	t.Logf("cases that passed:\n%s", table.String())
}
