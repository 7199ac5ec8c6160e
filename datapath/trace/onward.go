package trace

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"github.com/skep-io/skep/datapath/desired"
)

// Request is the packet as the other node gets it.
func (o Onward) Request() (Request, error) {
	source, err := netip.ParseAddrPort(o.Source)
	if err != nil {
		return Request{}, err
	}
	target, err := netip.ParseAddrPort(o.Target)
	if err != nil {
		return Request{}, err
	}
	r := Request{Kind: FromOutside, Source: source.Addr(), SourcePort: source.Port(), Target: target, Tunnel: o.Tunnel, Protocol: desired.UDP}
	if strings.EqualFold(o.Protocol, desired.TCP.String()) {
		r.Protocol = desired.TCP
	}
	return r, nil
}

// Command follows the packet at the other node.
func (o Onward) Command() string {
	source, err := netip.ParseAddrPort(o.Source)
	if err != nil {
		return ""
	}
	s := fmt.Sprintf("skep net trace --from %s --source-port %d --to %s --protocol %s", source.Addr(), source.Port(), o.Target, o.Protocol)
	if o.Tunnel {
		s += " --tunnel"
	}
	return s
}

// Join puts what happens at the other node between what happened here and the answer here, which is there only if it left that node.
func (t Trace) Join(node string, there Trace) Trace {
	here := t.Hops
	t.Hops = nil
	add := func(hops []Hop, node string, reply bool) {
		for _, h := range hops {
			if h.Reply == reply {
				h.Node = cmp.Or(h.Node, node)
				t.Hops = append(t.Hops, h)
			}
		}
	}
	add(here, "", false)
	add(there.Hops, node, false)
	add(there.Hops, node, true)
	t.Verdict, t.Reason, t.Onward = there.Verdict, there.Reason, there.Onward
	if there.Reply == Sent {
		add(here, "", true)
	} else {
		t.Reply = there.Reply
	}
	t.Notes = append(t.Notes, there.Notes...)
	return t
}
