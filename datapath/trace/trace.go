// Package trace follows a packet through a node's network, as the programs decide about it: it sends a made-up packet through the
// programs that are attached, each in its turn (BPF_PROG_TEST_RUN: nothing is sent anywhere), and says at each hop what happened and
// why. What no program can be asked for, the hooks of sockets, is read from the same maps. Afterwards no table is different.
package trace

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/rtnl"
)

// Hop is one place that the packet passes.
type Hop struct {
	// Node is the name of the node, empty for the one that is asked.
	Node string `json:"node,omitempty"`
	// Where is the place: a pod, a socket, a device, the node's stack.
	Where string `json:"where"`
	// Program is what decided there; empty: no program did.
	Program string `json:"program,omitempty"`
	// What happened, and Why.
	What string   `json:"what"`
	Why  []string `json:"why,omitempty"`
	// Before and After are the packet as it came, and as it went on if that is another.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Reply says that this is the answer, on its way back.
	Reply bool `json:"reply,omitempty"`
}

// Verdicts of a trace.
const (
	Delivered = "delivered" // to a pod or a process of the node
	Sent      = "sent"      // out of this node
	Denied    = "denied"    // by policies
	Dropped   = "dropped"
	Refused   = "refused" // and the sender is told
	NoRoute   = "no route"
)

// Trace is what happens to a packet and its answer.
type Trace struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Protocol string `json:"protocol"`
	Verdict  string `json:"verdict"`
	// Reason is that of a drop, as `skep net drops` names it.
	Reason string `json:"reason,omitempty"`
	// Reply is the verdict on the answer; empty: there is none.
	Reply string   `json:"reply,omitempty"`
	Hops  []Hop    `json:"hops"`
	Notes []string `json:"notes,omitempty"`
	// Onward is the packet as it left for another node.
	Onward *Onward `json:"onward,omitempty"`
}

// Onward is a packet on its way to another node.
type Onward struct {
	Node     string `json:"node"`
	Source   string `json:"source"`
	Target   string `json:"target"`
	Tunnel   bool   `json:"tunnel,omitempty"`
	Protocol string `json:"protocol"`
}

// Step is one program that a packet passed.
type Step struct {
	Program string
	// Foreign says that the program is somebody else's, and was not run.
	Foreign bool
	Verdict int32
	Frame   []byte
	// Event is what the program told of the packet; nil: nothing.
	Event *abi.Event
}

// Device is one of the node's devices.
type Device struct {
	Index int
	Name  string
	MAC   [6]byte
	// Tunnel says that it leads through the tunnel, Front that XDP sees its packets first.
	Tunnel, Front bool
}

// Kernel is the node whose programs are asked.
type Kernel interface {
	// Run sends a frame through the programs of one hook of a device. It ends with the first that decides.
	Run(device int, ingress bool, frame []byte) ([]Step, error)
	// Way asks the routing table.
	Way(to, from netip.Addr, by int) (rtnl.Way, error)
	// Device describes a device.
	Device(index int) (Device, error)
}

// prefixed puts a prefix before what is not empty.
func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// WriteText writes the trace for people.
func (t Trace) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s from %s to %s\n", t.Protocol, t.From, t.To)
	node, reply := "", false
	for i, h := range t.Hops {
		if h.Node != node {
			node = h.Node
			fmt.Fprintf(&b, "\n%s:\n", cmp.Or(prefixed("on node ", node), "back at the first node"))
		}
		if h.Reply != reply {
			reply = h.Reply
			fmt.Fprintf(&b, "\nthe answer:\n")
		}
		where := h.Where
		if h.Program != "" {
			where += " (" + h.Program + ")"
		}
		fmt.Fprintf(&b, "%3d  %s: %s\n", i+1, where, h.What)
		switch {
		case h.After != "":
			fmt.Fprintf(&b, "       %s\n    => %s\n", h.Before, h.After)
		case h.Before != "":
			fmt.Fprintf(&b, "       %s\n", h.Before)
		}
		for _, why := range h.Why {
			fmt.Fprintf(&b, "       - %s\n", why)
		}
	}
	fmt.Fprintf(&b, "\n%s", t.Verdict)
	if t.Reason != "" {
		fmt.Fprintf(&b, ": %s", t.Reason)
	}
	if t.Reply != "" {
		fmt.Fprintf(&b, "; the answer: %s", t.Reply)
	}
	b.WriteString("\n")
	for _, n := range t.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
