package trace

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/observe"
)

// Kind says where a packet begins.
type Kind string

// The kinds of origins.
const (
	FromPod     Kind = "pod"     // of this node
	FromNode    Kind = "node"    // a process of the node itself
	FromOutside Kind = "outside" // any address: the packet enters by the device that leads there
)

// Request is the packet to follow.
type Request struct {
	Kind Kind
	// Source is the address of the pod or of who is outside; of the node it is chosen as its stack does.
	Source   netip.Addr
	Target   netip.AddrPort
	Protocol desired.Protocol
	// SourcePort is the client's; 0: one that nobody has.
	SourcePort uint16
	// Backend is the one to choose where there are dice; the zero address: any.
	Backend netip.Addr
	// Packets leaves out what the socket programs do, as for processes that they do not serve.
	Packets bool
	// Tunnel says that a packet from outside comes out of the tunnel.
	Tunnel bool
}

// Pod is what the API says of a pod.
type Pod struct {
	Name, Node string // namespace/name
	// Unready says why it is not ready; empty: it is.
	Unready string
}

// View is what is known of the node and of the cluster.
type View struct {
	Kernel Kernel
	Maps   *bpfmap.Maps
	Names  observe.Names
	Pods   map[netip.Addr]Pod
	// Nodes are the nodes' names by address.
	Nodes map[netip.Addr]string
	// Policies explains what policies say about a flow; nil: the API does not answer.
	Policies func(from netip.Addr, to netip.AddrPort, protocol desired.Protocol) []string
}

// ErrLive is returned when a flow of somebody's has the very ends of the packet: it must not be disturbed.
var ErrLive = errors.New("a live flow has these ends: choose another source port")

// ErrNoPod is returned when no pod of this node has the source address.
var ErrNoPod = errors.New("no pod of this node has that address in the kernel's table of endpoints")

// walker follows one packet. It remembers what the programs wrote, for clean to take away.
type walker struct {
	View
	tables   tables
	names    abi.Names
	protocol desired.Protocol
	trace    *Trace
	reply    bool
	made     map[abi.ConntrackKey]struct{}
	affinity map[affinityOf]affinityWas
}

type affinityOf struct {
	client  netip.Addr
	service uint32
}

type affinityWas struct {
	row    abi.Affinity
	exists bool
}

// end is where a packet came to rest.
type end struct {
	// verdict is one of the verdicts of a trace; reason is that of a drop.
	verdict, reason string
	// device is that of the pod, or by which it left; 0: the node's stack.
	device Device
	packet Packet
	// pod says that it reached one.
	pod bool
}

// Walk follows the packet of the request, and its answer. The maps are as before when it returns, also with an error.
func Walk(v View, r Request) (t Trace, err error) {
	names, err := abi.ReadNames()
	if err != nil {
		return t, err
	}
	t = Trace{From: string(r.Kind), To: r.Target.String(), Protocol: r.Protocol.String(), Hops: []Hop{}}
	w := &walker{
		View: v, names: names, protocol: r.Protocol, trace: &t,
		made: map[abi.ConntrackKey]struct{}{}, affinity: map[affinityOf]affinityWas{},
	}
	if w.tables, err = readTables(v.Maps); err != nil {
		return t, err
	}
	if r.Source.IsValid() {
		t.From = w.name(r.Source)
	}
	defer func() { err = errors.Join(err, w.clean()) }()
	p, e, err := w.begin(r)
	if err != nil {
		return t, err
	}
	t.Verdict, t.Reason = e.verdict, e.reason
	if e.verdict != Delivered && e.verdict != Sent {
		return t, nil
	}
	w.reply = true
	back, err := w.answer(e)
	if err != nil {
		return t, err
	}
	t.Reply = back.verdict
	if back.reason != "" {
		t.Reply += " (" + back.reason + ")"
	}
	w.home(p, back)
	return t, nil
}

// begin sends the packet on its way, and returns it as the socket sent it.
func (w *walker) begin(r Request) (p Packet, e end, err error) {
	p = Packet{Source: netip.AddrPortFrom(r.Source, r.SourcePort), Target: r.Target, Protocol: r.Protocol}
	if r.Protocol == desired.TCP {
		p.Flags = flagSYN
	}
	if r.Kind != FromOutside && !r.Packets {
		call := Call{Target: r.Target, Protocol: r.Protocol}
		if r.Kind == FromPod {
			call.Client = r.Source
		}
		refused, err := w.socket(call, r, &p)
		if err != nil || refused != nil {
			if refused != nil {
				e = *refused
			}
			return p, e, err
		}
	}
	if r.Kind == FromNode {
		return w.fromNode(p)
	}
	if err := w.choosePort(&p); err != nil {
		return p, e, err
	}
	if r.Kind == FromPod {
		e, err = w.fromPod(p)
		return p, e, err
	}
	e, err = w.fromOutside(p, r.Tunnel)
	return p, e, err
}

// socket is the hop that no program can be asked about.
func (w *walker) socket(c Call, r Request, p *Packet) (*end, error) {
	a, err := w.tables.call(c, r.Backend)
	if err != nil {
		return nil, err
	}
	h := Hop{Where: "socket", Program: "connect", Before: fmt.Sprintf("%s %s", c.Protocol, c.Target)}
	if c.Protocol == desired.UDP {
		h.Program = "connect, sendmsg"
	}
	switch {
	case !a.Asked.Address.IsValid():
		h.What = "passes: no Service answers at that address and port"
	case a.Refused != "":
		h.What = "refused: ECONNREFUSED"
		h.Why = []string{w.serviceName(a.Asked.Address, a.Service) + ": " + reasons[a.Refused]}
	default:
		p.Target = a.Target
		h.What = "the Service becomes a backend"
		h.After = fmt.Sprintf("%s %s (%s)", c.Protocol, a.Target, w.name(a.Target.Addr()))
		h.Why = []string{w.serviceName(a.Asked.Address, a.Service), a.Chosen}
	}
	h.Why = append(h.Why, "read from the maps: programs at sockets cannot be run for a test")
	w.hop(h)
	if a.Refused == "" {
		return nil, nil
	}
	return &end{verdict: Refused, reason: a.Refused}, nil
}

// fromPod sends a packet out of a pod.
func (w *walker) fromPod(p Packet) (end, error) {
	ep, _, ok, err := w.Maps.Endpoint(p.Source.Addr())
	if err != nil {
		return end{}, err
	}
	if !ok {
		return end{}, fmt.Errorf("%s: %w", p.Source.Addr(), ErrNoPod)
	}
	d, err := w.Kernel.Device(ep.IfIndex)
	if err != nil {
		return end{}, err
	}
	copy(p.SourceMAC[:], ep.PodMAC)
	p.TargetMAC = d.MAC
	return w.enter(d, fmt.Sprintf("device %s of pod %s", d.Name, w.name(p.Source.Addr())), p)
}

// fromOutside lets a packet enter by the device that leads to its source.
func (w *walker) fromOutside(p Packet, tunnel bool) (end, error) {
	way, err := w.Kernel.Way(p.Source.Addr(), netip.Addr{}, 0)
	if err != nil {
		return end{}, fmt.Errorf("by which device would it come: %w", err)
	}
	d, err := w.Kernel.Device(way.Device)
	if err != nil {
		return end{}, err
	}
	if tunnel && !d.Tunnel {
		w.trace.Notes = append(w.trace.Notes, fmt.Sprintf("the routes here lead to %s by %s and not by the tunnel", p.Source.Addr(), d.Name))
	}
	return w.fromDevice(d, p)
}

// fromDevice lets a packet arrive at a device that leads outside.
func (w *walker) fromDevice(d Device, p Packet) (end, error) {
	p.SourceMAC, p.TargetMAC = [6]byte{2, 0, 0, 0, 0, 2}, d.MAC
	if d.Front && !w.reply {
		w.hop(Hop{Where: "device " + d.Name, Program: abi.ProgFront, What: "left to tc: it begins a flow", Why: []string{"not run: XDP decides about flows in the table alone"}})
	}
	return w.enter(d, "device "+d.Name, p)
}

// fromNode sends a packet of a process of the node.
func (w *walker) fromNode(p Packet) (Packet, end, error) {
	way, err := w.Kernel.Way(p.Target.Addr(), netip.Addr{}, 0)
	if err != nil {
		e, err := w.noRoute(p, err)
		return p, e, err
	}
	source := way.Source
	if p.Target.Addr().IsLoopback() {
		source = p.Target.Addr()
	}
	p.Source = netip.AddrPortFrom(source, p.Source.Port())
	if err := w.choosePort(&p); err != nil {
		return p, end{}, err
	}
	e, err := w.stack(p, 0)
	return p, e, err
}

// answer sends the answer to a packet from where that came to rest.
func (w *walker) answer(e end) (end, error) {
	p := e.packet.reply()
	switch {
	case e.pod:
		return w.fromPod(p)
	case e.device.Index != 0:
		return w.fromDevice(e.device, p)
	}
	return w.stack(p, 0)
}

// home tells what the client sees of the answer.
func (w *walker) home(sent Packet, back end) {
	if back.verdict != Delivered && back.verdict != Sent {
		return
	}
	want := sent.reply()
	if back.packet.sameEnds(want) {
		return
	}
	w.trace.Notes = append(w.trace.Notes, fmt.Sprintf("the answer comes as %s, and the client waits for %s", back.packet, want))
}

// choosePort gives the packet a source port that no flow has, where it has none yet.
func (w *walker) choosePort(p *Packet) error {
	if p.Source.Port() != 0 {
		return nil
	}
	used := map[uint16]struct{}{}
	err := w.Maps.Flows(func(f bpfmap.Flow) bool {
		for i := range 2 {
			if f.Key.End(i).Addr() == p.Source.Addr() {
				used[f.Key.End(i).Port()] = struct{}{}
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	// Below what clients and the masquerade take, and what node ports have.
	for port := uint16(29999); port > 10000; port-- {
		if _, taken := used[port]; !taken {
			p.Source = netip.AddrPortFrom(p.Source.Addr(), port)
			return nil
		}
	}
	return ErrLive
}

// hop notes a hop.
func (w *walker) hop(h Hop) {
	h.Reply = w.reply
	w.trace.Hops = append(w.trace.Hops, h)
}
