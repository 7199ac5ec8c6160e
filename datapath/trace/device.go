package trace

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/rtnl"
)

// What tc programs decide.
const (
	tcNext     = -1
	tcOK       = 0
	tcDrop     = 2
	tcRedirect = 7
)

// reasons say in words what drop reasons mean here.
var reasons = map[string]string{
	"spoofed":          "the source address or MAC is not the sender's own",
	"no_endpoint":      "an address of this node that no pod has",
	"no_backend":       "the Service has no ready endpoint",
	"no_service":       "an address of the Service range and a port that no Service has",
	"no_local_backend": "a traffic policy of Local, and no ready endpoint on this node",
	"source_range":     "the load balancer's source ranges leave the client out",
	"table_full":       "the flow table has no room",
	"ports_exhausted":  "no free source port towards this destination",
	"collision":        "two flows would look alike once translated",
	"no_masquerade":    "the device has no address to masquerade with",
	"policy_ingress":   "no policy of the receiver allows it",
	"policy_egress":    "no policy of the sender allows it",
	"tunnel_source":    "no node of the cluster sent it",
	"no_tunnel":        "an address that no node is known to have",
	"not_syn":          "the middle of a connection that is not known",
	"rewrite":          "the kernel refused to change the packet",
	"too_large":        "larger than the way",
	"expired":          "no hop left",
	"malformed":        "headers shorter than they claim",
	"unsupported":      "neither IPv4 nor IPv6",
	"fragment":         "a fragment whose beginning was not seen",
}

// pass runs the programs of a hook of a device, with a hop for each. It returns the verdict of the last and the packet as it is then.
func (w *walker) pass(d Device, ingress bool, where string, p Packet) (verdict int32, after Packet, last *Step, err error) {
	if err := w.watchRows(p); err != nil {
		return 0, p, nil, err
	}
	steps, err := w.Kernel.Run(d.Index, ingress, p.frame())
	if err != nil {
		return 0, p, nil, err
	}
	if err := w.noteRows(p); err != nil {
		return 0, p, nil, err
	}
	after = p
	for i := range steps {
		s := &steps[i]
		switch {
		case s.Foreign:
			w.hop(Hop{Where: where, Program: s.Program, What: "not run: a program of somebody else, which may do anything to the packet"})
			continue
		case s.Frame == nil:
			if err := w.fromTunnel(where, after, s.Program); err != nil {
				return 0, p, nil, err
			}
			verdict, last = tcNext, s
			continue
		}
		before := after
		if after, err = parse(s.Frame); err != nil {
			return 0, p, nil, fmt.Errorf("%s: %w", s.Program, err)
		}
		verdict, last = s.Verdict, s
		h := Hop{Where: where, Program: s.Program, What: w.verdictName(s, before, after, ingress), Before: before.String()}
		if !after.sameEnds(before) {
			h.After = after.String()
		}
		h.Why = w.why(s, before, after)
		w.hop(h)
	}
	if last == nil && len(steps) == 0 {
		w.hop(Hop{Where: where, What: "no program is attached: the packet goes on as it is", Before: p.String()})
	}
	return verdict, after, last, nil
}

// fromTunnel is the hop of a program that wants to know which node sent the packet, which test packets do not say.
func (w *walker) fromTunnel(where string, p Packet, program string) error {
	h := Hop{Where: where, Program: program, What: "passes", Before: p.String()}
	node, err := w.nodeOf(p.Source.Addr(), netip.Addr{}, true)
	if err != nil {
		return err
	}
	known, ok := w.tables.nodes[node]
	if ok && !known.Local {
		h.Why = append(h.Why, fmt.Sprintf("%s is a node of the cluster", cmp.Or(w.Nodes[node], node.String())))
	} else {
		h.What = "would be dropped: tunnel_source"
		h.Why = append(h.Why, reasons["tunnel_source"]+", as far as is known")
	}
	h.Why = append(h.Why, "read from the maps: packets of a test come out of no tunnel")
	w.hop(h)
	return nil
}

// refused says whether a program answered the packet with a refusal.
func refused(s *Step, before, after Packet) bool {
	return s.Verdict == tcRedirect && (s.Event != nil && s.Event.Kind == uint8(abi.EventDrop) || after.Other != 0 ||
		after.Source == before.Target && after.Target == before.Source)
}

func (w *walker) verdictName(s *Step, before, after Packet, ingress bool) string {
	switch {
	case s.Verdict == tcDrop && strings.HasPrefix(w.reasonOf(s), "policy_"):
		return "denied: " + w.reasonOf(s)
	case s.Verdict == tcDrop:
		return "dropped: " + cmp.Or(w.reasonOf(s), "the reason was not told")
	case refused(s, before, after):
		return "refused, the sender is told: " + cmp.Or(w.reasonOf(s), "the reason was not told")
	case s.Verdict == tcRedirect:
		return "sent on, past the node's stack"
	case s.Verdict == tcNext:
		return "passes to the next program"
	case ingress:
		return "passes to the node's stack"
	}
	return "passes"
}

// reasonOf is the reason of a drop; empty if none was told.
func (w *walker) reasonOf(s *Step) string {
	if s.Event == nil || s.Event.Kind != uint8(abi.EventDrop) || int(s.Event.Reason) >= len(w.names.Reasons) {
		return ""
	}
	return w.names.Reasons[s.Event.Reason]
}

// why explains the verdict of a program.
func (w *walker) why(s *Step, before, after Packet) []string {
	var lines []string
	if r := w.reasonOf(s); r != "" {
		lines = append(lines, cmp.Or(reasons[r], r)+"; `skep net drops` counts it once more")
	}
	to := after.Target
	e := s.Event
	if e != nil && e.NewDport != 0 {
		to = netip.AddrPortFrom(addrOf(e.NewDst), abi.HostPort(e.NewDport))
	}
	if refused(s, before, after) {
		to = before.Target
	}
	if e != nil && e.Service != 0 {
		f, _, _ := w.tables.frontend(before.Target, w.protocol, true)
		lines = append(lines, w.serviceName(f.Address, e.Service))
		if to != before.Target && e.NewDport != 0 {
			lines = append(lines, fmt.Sprintf("backend %s (%s)", to, w.name(to.Addr())))
		}
	}
	if !w.reply && after.Source != before.Source && s.Verdict != tcDrop && !refused(s, before, after) {
		lines = append(lines, "the source becomes "+after.Source.String()+", so that the answer comes back here")
	}
	if !w.reply && w.decides(s) {
		lines = append(lines, w.policyLines(before, to, e)...)
	}
	return lines
}

// decides says whether a program asked the policies about the packet: where a flow begins or is refused for them.
func (w *walker) decides(s *Step) bool {
	r := w.reasonOf(s)
	return s.Event != nil && (s.Event.Kind == uint8(abi.EventNew) || strings.HasPrefix(r, "policy_"))
}

func (w *walker) policyLines(p Packet, to netip.AddrPort, e *abi.Event) []string {
	if w.Policies != nil {
		return w.Policies(p.Source.Addr(), to, w.protocol)
	}
	if e.Egress == 0 && e.Ingress == 0 {
		return nil
	}
	return []string{fmt.Sprintf("policy sets %d (egress) and %d (ingress); the API would tell their names", e.Egress, e.Ingress)}
}

// enter is what a packet meets that a device receives.
func (w *walker) enter(d Device, where string, p Packet) (end, error) {
	verdict, after, last, err := w.pass(d, true, where, p)
	if err != nil {
		return end{}, err
	}
	switch {
	case last == nil || verdict == tcOK || verdict == tcNext:
		return w.stack(after, d.Index)
	case refused(last, p, after):
		return end{verdict: Refused, reason: w.reasonOf(last), packet: after}, nil
	case verdict == tcRedirect:
		return w.redirected(d, p, after)
	}
	return w.dropped(last, after), nil
}

func (w *walker) dropped(s *Step, p Packet) end {
	e := end{verdict: Dropped, reason: w.reasonOf(s), packet: p}
	if strings.HasPrefix(e.reason, "policy_") {
		e.verdict = Denied
	}
	return e
}

// redirected finds where a program sent a packet: to a pod of this node, or by the routing table.
func (w *walker) redirected(by Device, before, after Packet) (end, error) {
	to := after.Target.Addr()
	ep, _, ok, err := w.Maps.Endpoint(to)
	if err != nil {
		return end{}, err
	}
	if ok {
		d, err := w.Kernel.Device(ep.IfIndex)
		if err != nil {
			return end{}, err
		}
		return w.arrive(d, after), nil
	}
	// A flow that is handed on as it is goes to the node of its backend.
	key, _ := abi.NewConntrackKey(before.Source, before.Target, uint8(w.protocol))
	row, ok, err := w.Maps.Flow(key)
	if err != nil {
		return end{}, err
	}
	if ok && row.Value.Flags&abi.CTDirect != 0 {
		to = row.Value.Dst.Netip()
	}
	// What is masqueraded is routed by the source that it had.
	way, err := w.Kernel.Way(to, before.Source.Addr(), by.Index)
	if err != nil {
		return w.noRoute(after, err)
	}
	return w.leave(way, after)
}

// arrive is the pod's side of its device.
func (w *walker) arrive(d Device, p Packet) end {
	h := Hop{Where: "pod " + w.name(p.Target.Addr()), What: "delivered by its device " + d.Name, Before: p.String()}
	if pod, ok := w.Pods[p.Target.Addr()]; ok && pod.Unready != "" {
		h.Why = append(h.Why, "the pod is not ready: "+pod.Unready)
	}
	w.hop(h)
	return end{verdict: Delivered, device: d, packet: p, pod: true}
}

// stack is the node's own: what it is for, or where it goes by the routing table. by is the device that it came by; 0: none.
func (w *walker) stack(p Packet, by int) (end, error) {
	from := netip.Addr{}
	if by != 0 {
		from = p.Source.Addr()
	}
	way, err := w.Kernel.Way(p.Target.Addr(), from, by)
	if err != nil {
		return w.noRoute(p, err)
	}
	if way.Local || w.tables.nodes[p.Target.Addr()].Local {
		w.hop(Hop{Where: "the node's stack", What: "for a process of the node", Before: p.String()})
		return end{verdict: Delivered, packet: p}, nil
	}
	return w.leave(way, p)
}

func (w *walker) noRoute(p Packet, err error) (end, error) {
	if !rtnl.NoWay(err) {
		return end{}, err
	}
	w.hop(Hop{Where: "the node's stack", What: "no route", Why: []string{err.Error()}, Before: p.String()})
	return end{verdict: NoRoute, packet: p}, nil
}

// leave sends a packet out of a device of the node.
func (w *walker) leave(way rtnl.Way, p Packet) (end, error) {
	d, err := w.Kernel.Device(way.Device)
	if err != nil {
		return end{}, err
	}
	ep, _, pod, err := w.Maps.Endpoint(p.Target.Addr())
	if err != nil {
		return end{}, err
	}
	pod = pod && ep.IfIndex == d.Index
	where := "device " + d.Name
	if pod {
		where += " of pod " + w.name(p.Target.Addr())
	}
	p.SourceMAC = d.MAC
	verdict, after, last, err := w.pass(d, false, where, p)
	if err != nil {
		return end{}, err
	}
	if last != nil && verdict == tcDrop {
		return w.dropped(last, after), nil
	}
	if pod {
		return w.arrive(d, after), nil
	}
	return w.sent(d, way, after)
}

// sent is the end of what this node knows.
func (w *walker) sent(d Device, way rtnl.Way, p Packet) (end, error) {
	h := Hop{Where: "the link of " + d.Name, What: "leaves this node", Before: p.String()}
	switch node, err := w.nodeOf(p.Target.Addr(), way.Gateway, d.Tunnel); {
	case err != nil:
		return end{}, err
	case node.IsValid():
		name := cmp.Or(w.Nodes[node], node.String())
		h.What = "leaves this node for node " + name
		if d.Tunnel {
			h.Why = []string{fmt.Sprintf("through the tunnel to %s", node)}
		}
		if !w.reply {
			w.trace.Onward = &Onward{Node: w.Nodes[node], Source: p.Source.String(), Target: p.Target.String(), Tunnel: d.Tunnel, Protocol: strings.ToLower(p.Protocol.String())}
		}
	case way.Gateway.IsValid():
		h.What += " towards " + way.Gateway.String()
	}
	w.hop(h)
	return end{verdict: Sent, device: d, packet: p}, nil
}

// nodeOf is the node that a packet leaves for; the zero address: none.
func (w *walker) nodeOf(to, gateway netip.Addr, tunnel bool) (netip.Addr, error) {
	if tunnel {
		ranges, err := w.Maps.Tunnels().List()
		if err != nil {
			return netip.Addr{}, err
		}
		for pods, t := range ranges {
			if pods.Contains(to) {
				return t.Node, nil
			}
		}
	}
	for _, a := range []netip.Addr{to, gateway} {
		if n, ok := w.tables.nodes[a]; ok && !n.Local {
			return a, nil
		}
	}
	return netip.Addr{}, nil
}

// name is a pod's name with its address, or the address alone.
func (w *walker) name(a netip.Addr) string {
	if p, ok := w.Pods[a]; ok {
		return p.Name
	}
	if name := w.Names.Pods[a]; name != "" {
		return name
	}
	if n, ok := w.Nodes[a]; ok {
		return "node " + n
	}
	return a.String()
}

func (w *walker) serviceName(f netip.AddrPort, id uint32) string {
	if name := w.Names.Services[f]; name != "" {
		return fmt.Sprintf("Service %s (id %d)", name, id)
	}
	return fmt.Sprintf("Service id %d", id)
}

// addrOf reads an address of an event, whose type has no name there.
func addrOf(a abi.Addr) netip.Addr { return a.Netip() }
