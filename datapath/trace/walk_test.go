package trace

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/observe"
	"github.com/skep-io/skep/datapath/rtnl"
)

// Addresses and devices of the tests' node.
var (
	podA   = netip.MustParseAddr("10.244.0.2")
	podB   = netip.MustParseAddr("10.244.0.3")
	far    = netip.MustParseAddr("10.244.1.2")
	nodeIP = netip.MustParseAddr("192.0.2.1")
	peer   = netip.MustParseAddr("192.0.2.9")
	out    = netip.MustParseAddr("198.51.100.7")
	vip    = netip.MustParseAddrPort("10.96.0.20:80")
)

const (
	devA   = 11
	devB   = 12
	uplink = 20
)

type hook struct {
	device  int
	ingress bool
}

// fake is a node whose programs are functions.
type fake struct {
	programs map[hook]func(Packet) Step
}

func (f fake) Run(device int, ingress bool, frame []byte) ([]Step, error) {
	p, err := parse(frame)
	if err != nil {
		return nil, err
	}
	program := f.programs[hook{device, ingress}]
	if program == nil {
		return nil, nil
	}
	s := program(p)
	if s.Frame == nil && !s.Foreign {
		s.Frame = frame
	}
	return []Step{s}, nil
}

func (f fake) Way(to, _ netip.Addr, _ int) (rtnl.Way, error) {
	switch to {
	case podA:
		return rtnl.Way{Device: devA, Source: nodeIP}, nil
	case podB:
		return rtnl.Way{Device: devB, Source: nodeIP}, nil
	case nodeIP:
		return rtnl.Way{Local: true, Source: nodeIP}, nil
	case far:
		return rtnl.Way{Device: uplink, Gateway: peer, Source: nodeIP}, nil
	case out:
		return rtnl.Way{Device: uplink, Gateway: netip.MustParseAddr("192.0.2.254"), Source: nodeIP}, nil
	}
	return rtnl.Way{}, unix.ENETUNREACH
}

func (f fake) Device(index int) (Device, error) {
	return Device{Index: index, Name: map[int]string{devA: "a0", devB: "b0", uplink: "eth0"}[index]}, nil
}

func step(program string, verdict int32) func(Packet) Step {
	return func(Packet) Step { return Step{Program: program, Verdict: verdict} }
}

// drop is a program that drops, and tells why.
func drop(t *testing.T, program, reason string) func(Packet) Step {
	names, err := abi.ReadNames()
	if err != nil {
		t.Fatal(err)
	}
	return func(Packet) Step {
		return Step{Program: program, Verdict: tcDrop, Event: &abi.Event{Kind: uint8(abi.EventDrop), Reason: uint8(slices.Index(names.Reasons, reason))}}
	}
}

// testView is a node with two pods, a Service with two backends and one without any.
func testView(t *testing.T) (View, fake) {
	t.Helper()
	m := bpfmap.Fake(nil)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for device, a := range map[int]netip.Addr{devA: podA, devB: podB} {
		must(m.PutEndpoint(desired.Endpoint{Address: a, IfIndex: device, PodMAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(device)}}, bpfmap.EndpointPolicy{}))
	}
	must(m.Nodes().Put(nodeIP, desired.Node{Local: true}))
	must(m.Nodes().Put(peer, desired.Node{}))
	must(m.PutService(bpfmap.ServiceRow{ID: 1, Slots: 2, Affinity: 60}))
	must(m.PutSlot(1, 0, desired.Backend{Address: netip.AddrPortFrom(far, 8080)}))
	must(m.PutSlot(1, 1, desired.Backend{Address: netip.AddrPortFrom(podB, 8080)}))
	must(m.PutService(bpfmap.ServiceRow{ID: 2}))
	must(m.PutFrontend(desired.Frontend{Address: vip, Protocol: desired.TCP}, bpfmap.Target{Service: 1, Outside: 1}))
	must(m.PutFrontend(desired.Frontend{Address: netip.AddrPortFrom(desired.AnyLocal, 30080), Protocol: desired.TCP}, bpfmap.Target{Service: 1, Outside: 1}))
	must(m.PutFrontend(desired.Frontend{Address: netip.AddrPortFrom(vip.Addr(), 81), Protocol: desired.TCP}, bpfmap.Target{Service: 2, Outside: 2}))
	must(m.PutFrontend(desired.Frontend{Address: netip.AddrPortFrom(vip.Addr(), 82), Protocol: desired.TCP}, bpfmap.Target{Service: 1, Restricted: true}))
	must(m.PutSourceRange(1, netip.MustParsePrefix("10.244.0.2/32")))
	f := fake{map[hook]func(Packet) Step{
		{devA, true}: step("from_pod", tcRedirect), {devB, true}: step("from_pod", tcRedirect),
		{devA, false}: step("to_pod", tcOK), {devB, false}: step("to_pod", tcOK),
		{uplink, true}: step("from_net", tcOK), {uplink, false}: step("to_net", tcOK),
	}}
	return View{
		Kernel: f, Maps: m, Names: observe.Names{Services: map[netip.AddrPort]string{vip: "default/web"}},
		Pods:  map[netip.Addr]Pod{podA: {Name: "default/a"}, podB: {Name: "default/b", Unready: "it starts"}},
		Nodes: map[netip.Addr]string{peer: "node-2"},
		Policies: func(netip.Addr, netip.AddrPort, desired.Protocol) []string {
			return []string{"isolated by closed"}
		},
	}, f
}

// TestWalk: where packets end, and what is said on the way.
func TestWalk(t *testing.T) {
	to := func(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
	for _, r := range []struct {
		name     string
		request  Request
		programs map[hook]func(Packet) Step
		verdict  string
		says     []string
	}{
		{"pod to pod", Request{Kind: FromPod, Source: podA, Target: to(podB, 8080)}, nil, "delivered/delivered",
			[]string{"no Service answers", "a0 of pod default/a (from_pod)", "pod default/b: delivered by its device b0", "not ready: it starts", "the answer"}},
		{"a Service, and a backend that is asked for", Request{Kind: FromPod, Source: podA, Target: vip, Backend: podB}, nil, "delivered/delivered",
			[]string{"Service default/web (id 1)", "one of 2 backends at random", "10.244.0.3:8080 (default/b)"}},
		{"a backend on another node", Request{Kind: FromPod, Source: podA, Target: vip, Backend: far}, nil, "sent/delivered",
			[]string{"leaves this node for node node-2"}},
		{"a Service without backends", Request{Kind: FromPod, Source: podA, Target: to(vip.Addr(), 81)}, nil, "refused no_backend/",
			[]string{"ECONNREFUSED", "no ready endpoint"}},
		{"source ranges", Request{Kind: FromPod, Source: podB, Target: to(vip.Addr(), 82)}, nil, "refused source_range/", nil},
		{"source ranges that have the client", Request{Kind: FromPod, Source: podA, Target: to(vip.Addr(), 82), Backend: podB}, nil, "delivered/delivered", nil},
		{"a policy", Request{Kind: FromPod, Source: podA, Target: to(podB, 8080)},
			map[hook]func(Packet) Step{{devA, true}: drop(t, "from_pod", "policy_ingress")}, "denied policy_ingress/",
			[]string{"denied: policy_ingress", "isolated by closed", "skep net drops"}},
		{"spoofed", Request{Kind: FromPod, Source: podA, Target: to(podB, 8080)},
			map[hook]func(Packet) Step{{devA, true}: drop(t, "from_pod", "spoofed")}, "dropped spoofed/", []string{"not the sender's own"}},
		{"refused by an answer", Request{Kind: FromPod, Source: podA, Target: to(podB, 8080)}, map[hook]func(Packet) Step{
			{devA, true}: func(p Packet) Step {
				a := p.reply()
				a.Flags = flagRST
				return Step{Program: "from_pod", Verdict: tcRedirect, Frame: a.frame()}
			}}, "refused/", []string{"RST"}},
		{"no route", Request{Kind: FromPod, Source: podA, Target: to(netip.MustParseAddr("203.0.113.1"), 80)},
			map[hook]func(Packet) Step{{devA, true}: step("from_pod", tcOK)}, "no route/", []string{"network is unreachable"}},
		{"no route at all from the node", Request{Kind: FromNode, Target: to(netip.MustParseAddr("203.0.113.1"), 80)}, nil, "no route/", nil},
		{"the node to a pod", Request{Kind: FromNode, Target: to(podB, 8080)}, map[hook]func(Packet) Step{{devB, true}: step("from_pod", tcOK)},
			"delivered/delivered", []string{"to_pod", "for a process of the node"}},
		{"a pod to its node", Request{Kind: FromPod, Source: podA, Target: to(nodeIP, 22)}, map[hook]func(Packet) Step{{devA, true}: step("from_pod", tcOK)},
			"delivered/delivered", []string{"for a process of the node"}},
		{"masqueraded", Request{Kind: FromPod, Source: podA, Target: to(out, 80)}, map[hook]func(Packet) Step{
			{devA, true}: func(p Packet) Step {
				p.Source = to(nodeIP, 61000)
				return Step{Program: "from_pod", Verdict: tcRedirect, Frame: p.frame()}
			},
			{uplink, true}: func(p Packet) Step {
				p.Target = to(podA, 29999)
				return Step{Program: "from_net", Verdict: tcRedirect, Frame: p.frame()}
			},
		}, "sent/delivered", []string{"the source becomes 192.0.2.1:61000", "towards 192.0.2.254", "=> TCP 198.51.100.7:80 > 10.244.0.2:29999"}},
		{"outside, by a node port", Request{Kind: FromOutside, Source: out, Target: to(nodeIP, 30080)}, map[hook]func(Packet) Step{
			{uplink, true}: func(p Packet) Step {
				p.Target = to(podB, 8080)
				return Step{Program: "from_net", Verdict: tcRedirect, Frame: p.frame()}
			},
		}, "delivered/sent", []string{"device eth0 (from_net)", "note: the answer comes as"}},
		{"a program of somebody else", Request{Kind: FromPod, Source: podA, Target: to(podB, 8080)}, map[hook]func(Packet) Step{
			{devA, true}: func(Packet) Step { return Step{Program: "theirs", Foreign: true, Verdict: tcNext} }},
			"delivered/delivered", []string{"theirs): not run"}},
		{"no program", Request{Kind: FromPod, Source: podA, Target: to(podB, 8080)}, map[hook]func(Packet) Step{{devA, true}: nil}, "delivered/delivered",
			[]string{"no program is attached"}},
	} {
		t.Run(r.name, func(t *testing.T) {
			v, f := testView(t)
			for at, program := range r.programs {
				f.programs[at] = program
			}
			r.request.Protocol = desired.TCP
			got, err := Walk(v, r.request)
			if err != nil {
				t.Fatal(err)
			}
			verdict := strings.TrimSpace(got.Verdict+" "+got.Reason) + "/" + got.Reply
			var text strings.Builder
			if err := got.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			if verdict != r.verdict {
				t.Errorf("verdict %s, want %s\n%s", verdict, r.verdict, &text)
			}
			for _, want := range r.says {
				if !strings.Contains(text.String(), want) {
					t.Errorf("no %q in\n%s", want, &text)
				}
			}
		})
	}
}

// TestWalkLeavesNothing: rows of the trace go, those of others stay.
func TestWalkLeavesNothing(t *testing.T) {
	v, f := testView(t)
	live, _ := abi.NewConntrackKey(netip.AddrPortFrom(podA, 29999), netip.AddrPortFrom(podB, 1), 6)
	mine := bpfmap.Flow{Key: live, Value: abi.Conntrack{LastSeen: 7}}
	before := abi.Affinity{Port: abi.Port(8080), Slot: 1}
	if err := errors.Join(v.Maps.PutFlow(mine), v.Maps.PutAffinity(podA, 1, before)); err != nil {
		t.Fatal(err)
	}
	f.programs[hook{devA, true}] = func(p Packet) Step {
		key, from := abi.NewConntrackKey(p.Source, p.Target, 6)
		row := abi.Conntrack{Flags: abi.CTRewriteDst, Dst: abi.AddrFrom(podB), Dport: abi.Port(8080)}
		if from == 1 {
			row.Flags |= abi.CTFromHigh
		}
		other := row.Other(key)
		err := errors.Join(v.Maps.PutFlow(bpfmap.Flow{Key: key, Value: row}), v.Maps.PutFlow(bpfmap.Flow{Key: other}),
			v.Maps.PutAffinity(podA, 1, abi.Affinity{Slot: 9}))
		if err != nil {
			t.Error(err)
		}
		if p.Source.Port() == 29999 {
			t.Error("the source port is one of a live flow")
		}
		p.Target = netip.AddrPortFrom(podB, 8080)
		return Step{Program: "from_pod", Verdict: tcRedirect, Frame: p.frame()}
	}
	if _, err := Walk(v, Request{Kind: FromPod, Source: podA, Target: vip, Protocol: desired.TCP, Packets: true}); err != nil {
		t.Fatal(err)
	}
	var flows []bpfmap.Flow
	if err := v.Maps.Flows(func(f bpfmap.Flow) bool { flows = append(flows, f); return true }); err != nil {
		t.Fatal(err)
	}
	if len(flows) != 1 || flows[0] != mine {
		t.Errorf("flows afterwards: %+v", flows)
	}
	if row, ok, err := v.Maps.Affinity(podA, 1); err != nil || !ok || row != before {
		t.Errorf("affinity afterwards: %+v %v %v", row, ok, err)
	}
	// The very ends of a live flow are refused.
	_, err := Walk(v, Request{Kind: FromPod, Source: podA, SourcePort: 29999, Target: netip.AddrPortFrom(podB, 1), Protocol: desired.TCP})
	if !errors.Is(err, ErrLive) {
		t.Errorf("the ends of a live flow: %v", err)
	}
	if _, err := Walk(v, Request{Kind: FromPod, Source: far, Target: vip, Protocol: desired.TCP}); !errors.Is(err, ErrNoPod) {
		t.Errorf("no pod: %v", err)
	}
}

// TestPacket: what is built is read back.
func TestPacket(t *testing.T) {
	for _, p := range []Packet{
		{Source: netip.MustParseAddrPort("10.0.0.1:1"), Target: netip.MustParseAddrPort("10.0.0.2:65535"), Protocol: desired.TCP, Flags: flagSYN},
		{Source: netip.MustParseAddrPort("10.0.0.1:1"), Target: netip.MustParseAddrPort("10.0.0.2:53"), Protocol: desired.UDP},
		{Source: netip.MustParseAddrPort("[fd00::1]:1"), Target: netip.MustParseAddrPort("[fd00::2]:80"), Protocol: desired.TCP, Flags: flagSYN | flagACK},
		{Source: netip.MustParseAddrPort("[fd00::1]:1"), Target: netip.MustParseAddrPort("[fd00::2]:53"), Protocol: desired.UDP, SourceMAC: [6]byte{1}, TargetMAC: [6]byte{2}},
	} {
		got, err := parse(p.frame())
		if err != nil || got != p {
			t.Errorf("got %+v %v, want %+v", got, err, p)
		}
	}
	if _, err := parse(make([]byte, 20)); err == nil {
		t.Error("too short, and no error")
	}
}

// TestJoin: what happens at the other node comes between, and an answer that does not leave it does not come here.
func TestJoin(t *testing.T) {
	here := Trace{Verdict: Sent, Reply: Delivered, Hops: []Hop{{What: "1"}, {What: "4", Reply: true}}}
	for _, r := range []struct {
		there Trace
		want  string
	}{
		{Trace{Verdict: Delivered, Reply: Sent, Hops: []Hop{{What: "2"}, {What: "3", Reply: true}}}, "1234 delivered delivered"},
		{Trace{Verdict: Denied, Hops: []Hop{{What: "2"}}}, "12 denied "},
		{Trace{Verdict: Delivered, Reply: Dropped, Hops: []Hop{{What: "2"}, {What: "3", Reply: true}}}, "123 delivered dropped"},
	} {
		joined, got := here.Join("node-2", r.there), ""
		for _, h := range joined.Hops {
			got += h.What
			if (h.Node == "node-2") != (h.What == "2" || h.What == "3") {
				t.Errorf("hop %s at node %q", h.What, h.Node)
			}
		}
		if got += " " + joined.Verdict + " " + joined.Reply; got != r.want {
			t.Errorf("got %q, want %q", got, r.want)
		}
	}
}

// TestOnward: the command that goes on asks for the packet that was sent.
func TestOnward(t *testing.T) {
	o := Onward{Node: "node-2", Source: "10.244.0.2:29999", Target: "10.244.1.2:80", Tunnel: true, Protocol: "tcp"}
	r, err := o.Request()
	if want := (Request{Kind: FromOutside, Source: podA, SourcePort: 29999, Target: netip.AddrPortFrom(far, 80), Protocol: desired.TCP, Tunnel: true}); err != nil || r != want {
		t.Errorf("got %+v %v, want %+v", r, err, want)
	}
	if c := o.Command(); c != "skep net trace --from 10.244.0.2 --source-port 29999 --to 10.244.1.2:80 --protocol tcp --tunnel" {
		t.Error(c)
	}
}
