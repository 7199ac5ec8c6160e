package conntrack

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
)

var (
	client  = netip.MustParseAddrPort("192.0.2.2:40000")
	front   = netip.MustParseAddrPort("192.0.2.1:30080")
	backend = netip.MustParseAddrPort("10.244.0.2:80")
)

// nodePort gives both entries of a translated flow.
func nodePort(flags abi.ConntrackFlag) map[abi.ConntrackKey]abi.Conntrack {
	first, from := abi.NewConntrackKey(client, front, unix.IPPROTO_TCP)
	reply, back := abi.NewConntrackKey(client, backend, unix.IPPROTO_TCP)
	return map[abi.ConntrackKey]abi.Conntrack{
		first: {
			Flags: flags | abi.CTRewriteDst | abi.ConntrackFlag(from),
			Dst:   abi.AddrFrom(backend.Addr()), Dport: abi.Port(backend.Port()),
		},
		reply: {
			Flags: flags | abi.CTReplySide | abi.CTRewriteSrc | abi.ConntrackFlag(back),
			Src:   abi.AddrFrom(front.Addr()), Sport: abi.Port(front.Port()),
		},
	}
}

func TestOtherIsMutual(t *testing.T) {
	flows := nodePort(0)
	for key, ct := range flows {
		if _, ok := flows[ct.Other(key)]; !ok || ct.Other(key) == key {
			t.Errorf("%v: other side %v is not in the table", key, ct.Other(key))
		}
	}
}

func TestSweep(t *testing.T) {
	plain, _ := abi.NewConntrackKey(client, backend, unix.IPPROTO_UDP)
	closed := abi.CTSyn | abi.CTReplied | abi.CTFinFrom | abi.CTFinTo
	rows := []struct {
		name   string
		flows  map[abi.ConntrackKey]abi.Conntrack
		silent time.Duration
		left   int
	}{
		{"a request is kept for a while", map[abi.ConntrackKey]abi.Conntrack{plain: {}}, 29 * time.Second, 1},
		{"an unanswered request goes", map[abi.ConntrackKey]abi.Conntrack{plain: {}}, 31 * time.Second, 0},
		{"answered datagrams stay longer", map[abi.ConntrackKey]abi.Conntrack{plain: {Flags: abi.CTReplied}}, 119 * time.Second, 1},
		{"both sides of a closed flow go", nodePort(closed), 11 * time.Second, 0},
		{"both sides of an established flow stay", nodePort(abi.CTSyn | abi.CTReplied), time.Hour, 2},
		{"both sides of an abandoned opening go", nodePort(abi.CTSyn), 61 * time.Second, 0},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			o, err := load.Open(load.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			table := o.Map(abi.MapConntrack)
			for key, ct := range r.flows {
				if err := table.Put(key, ct); err != nil {
					t.Fatal(err)
				}
			}
			now := time.Unix(1000, 0)
			c := New(table, o.Tick, DefaultTimeouts(), slog.New(slog.DiscardHandler))
			c.now = func() time.Time { return now }
			if flows, removed, err := c.Sweep(); flows != len(r.flows) || removed != 0 || err != nil {
				t.Fatalf("first sweep: %d flows, %d removed, %v", flows, removed, err)
			}
			now = now.Add(r.silent)
			_, removed, err := c.Sweep()
			if left := len(r.flows) - removed; left != r.left || err != nil {
				t.Errorf("%d flows left, want %d (%v)", left, r.left, err)
			}
		})
	}
}
