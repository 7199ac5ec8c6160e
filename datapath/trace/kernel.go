package trace

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
	"github.com/skep-io/skep/datapath/observe"
	"github.com/skep-io/skep/datapath/podnet"
	"github.com/skep-io/skep/datapath/rtnl"
)

// Node is the kernel of this node: the one whose network namespace the caller is in. It is for one goroutine.
type Node struct {
	dir     string
	hooks   *load.Hooks
	watch   *observe.Watch
	overlay int
}

// OpenNode takes the node whose programs and maps are pinned below dir, the latter in its directory maps. While it is open it
// watches the node's flows, which has one reader: it returns [observe.ErrWatched] if there is one already.
func OpenNode(dir, maps string) (*Node, error) {
	hooks, err := load.OpenHooks(maps)
	if err != nil {
		return nil, err
	}
	watch, err := observe.OpenWatch(maps, 0)
	if err != nil {
		return nil, errors.Join(err, hooks.Close())
	}
	return &Node{dir: dir, hooks: hooks, watch: watch, overlay: podnet.Overlay()}, nil
}

// Close ends the watch.
func (n *Node) Close() error { return errors.Join(n.watch.Close(), n.hooks.Close()) }

// Way asks the routing table.
func (n *Node) Way(to, from netip.Addr, by int) (rtnl.Way, error) { return rtnl.WayTo(to, from, by) }

// Device describes a device.
func (n *Node) Device(index int) (Device, error) {
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return Device{}, fmt.Errorf("device %d: %w", index, err)
	}
	d := Device{Index: index, Name: i.Name, Tunnel: index == n.overlay, Front: load.HasFront(n.dir, index)}
	copy(d.MAC[:], i.HardwareAddr)
	return d, nil
}

// Run sends a frame through the programs of one hook of a device.
func (n *Node) Run(device int, ingress bool, frame []byte) (steps []Step, err error) {
	filters, err := podnet.FilterPrograms(device, ingress)
	if err != nil {
		return nil, err
	}
	programs, err := n.hooks.Programs(device, ingress, filters)
	defer func() {
		for _, p := range programs {
			err = errors.Join(err, p.Close())
		}
	}()
	if err != nil {
		return nil, err
	}
	for _, p := range programs {
		s := Step{Program: p.Name, Foreign: !p.Ours, Verdict: tcNext}
		if p.Ours && p.Name != abi.ProgFromOverlay {
			if s, err = n.run(p, device, frame); err != nil {
				return steps, err
			}
			frame = s.Frame
		}
		if steps = append(steps, s); s.Verdict != tcNext {
			break
		}
	}
	return steps, nil
}

func (n *Node) run(p load.Attached, device int, frame []byte) (Step, error) {
	s := Step{Program: p.Name}
	sent, err := parse(frame)
	if err != nil {
		return s, err
	}
	if s.Verdict, s.Frame, err = p.Run(device, frame); err != nil {
		return s, err
	}
	s.Event, err = n.told(sent)
	return s, err
}

// told is what the program that ran last told of the packet; nil: nothing. What it told is there when it has run.
func (n *Node) told(p Packet) (*abi.Event, error) {
	n.watch.SetDeadline(time.Now())
	var last *abi.Event
	for {
		e, err := n.watch.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return last, nil
		}
		if err != nil {
			return nil, err
		}
		if addrOf(e.Src) == p.Source.Addr() && addrOf(e.Dst) == p.Target.Addr() && abi.HostPort(e.Sport) == p.Source.Port() &&
			abi.HostPort(e.Dport) == p.Target.Port() && e.Proto == uint8(p.Protocol) {
			last = &e
		}
	}
}
