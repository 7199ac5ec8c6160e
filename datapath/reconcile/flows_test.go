package reconcile

import (
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// flowBetween is a flow that from began, last seen at a generation.
func flowBetween(protocol desired.Protocol, from, to string, flags abi.ConntrackFlag, seen uint32) bpfmap.Flow {
	f := bpfmap.Flow{Value: abi.Conntrack{Flags: flags, LastSeen: seen}}
	key, index := abi.NewConntrackKey(netip.MustParseAddrPort(from), netip.MustParseAddrPort(to), uint8(protocol))
	f.Key = key
	if index == 1 {
		f.Value.Flags |= abi.CTFromHigh
	}
	return f
}

// rewritten adds what packets of the flow get instead; an empty one stays.
func rewritten(f bpfmap.Flow, src, dst string) bpfmap.Flow {
	if src != "" {
		a := netip.MustParseAddrPort(src)
		f.Value.Src, f.Value.Sport = abi.AddrFrom(a.Addr()), abi.Port(a.Port())
		f.Value.Flags |= abi.CTRewriteSrc
	}
	if dst != "" {
		a := netip.MustParseAddrPort(dst)
		f.Value.Dst, f.Value.Dport = abi.AddrFrom(a.Addr()), abi.Port(a.Port())
		f.Value.Flags |= abi.CTRewriteDst
	}
	return f
}

// nodePortFlow is a client that reaches a pod through a node port, both sides.
func nodePortFlow(seenFront, seenBack uint32) (front, back bpfmap.Flow) {
	front = rewritten(flowBetween(desired.TCP, "198.51.100.1:4000", "192.0.2.1:30080", abi.CTSyn, seenFront),
		"10.244.0.1:61000", "10.244.0.2:8080")
	back = rewritten(flowBetween(desired.TCP, "10.244.0.1:61000", "10.244.0.2:8080", abi.CTSyn|abi.CTReplySide, seenBack),
		"192.0.2.1:30080", "198.51.100.1:4000")
	return front, back
}

func TestSweep(t *testing.T) {
	const now = 100000
	ago := func(d time.Duration) uint32 { return now - uint32(d/SweepPeriod) }
	front, back := nodePortFlow(ago(time.Hour), ago(time.Minute))
	oldFront, oldBack := nodePortFlow(ago(time.Hour), ago(time.Hour))
	closedFront, closedBack := nodePortFlow(ago(10*time.Second), ago(10*time.Second))
	closedFront.Value.Flags |= abi.CTFinFrom
	closedBack.Value.Flags |= abi.CTFinTo | abi.CTReplied
	tests := []struct {
		name  string
		flows []bpfmap.Flow
		live  int
	}{
		{"established TCP rests for hours", []bpfmap.Flow{flowBetween(desired.TCP, "10.0.0.1:1", "10.0.0.2:2", abi.CTSyn|abi.CTReplied, ago(5*time.Hour))}, 1},
		{"but not for ever", []bpfmap.Flow{flowBetween(desired.TCP, "10.0.0.1:1", "10.0.0.2:2", abi.CTSyn|abi.CTReplied, ago(7*time.Hour))}, 0},
		{"a SYN that nobody answers", []bpfmap.Flow{flowBetween(desired.TCP, "10.0.0.1:1", "10.0.0.2:2", abi.CTSyn, ago(2*time.Minute))}, 0},
		{"a late packet of a connection that is over", []bpfmap.Flow{flowBetween(desired.TCP, "10.0.0.1:1", "10.0.0.2:2", 0, ago(2*time.Minute))}, 0},
		{"closed TCP goes soon", []bpfmap.Flow{flowBetween(desired.TCP, "10.0.0.1:1", "10.0.0.2:2", abi.CTSyn|abi.CTFinFrom|abi.CTFinTo, ago(time.Minute))}, 0},
		{"half-closed TCP stays a while", []bpfmap.Flow{flowBetween(desired.TCP, "10.0.0.1:1", "10.0.0.2:2", abi.CTSyn|abi.CTFinFrom, ago(time.Minute))}, 1},
		{"UDP question", []bpfmap.Flow{flowBetween(desired.UDP, "10.0.0.1:1", "10.0.0.2:2", 0, ago(time.Minute))}, 0},
		{"UDP answered", []bpfmap.Flow{flowBetween(desired.UDP, "10.0.0.1:1", "10.0.0.2:2", abi.CTReplied, ago(time.Minute))}, 1},
		{"seen after the clock was read", []bpfmap.Flow{flowBetween(desired.UDP, "10.0.0.1:1", "10.0.0.2:2", 0, now+1)}, 1},
		{"one side of a translated flow lives", []bpfmap.Flow{front, back}, 2},
		{"each side has seen one FIN", []bpfmap.Flow{closedFront, closedBack}, 0},
		{"both sides are over", []bpfmap.Flow{oldFront, oldBack}, 0},
		{"half a translated flow, as a crash leaves it", []bpfmap.Flow{oldFront}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := bpfmap.Fake(nil)
			for _, f := range tt.flows {
				if err := m.PutFlow(f); err != nil {
					t.Fatal(err)
				}
			}
			f := NewFlows(m, quiet)
			if err := f.sweep(now); err != nil {
				t.Fatal(err)
			}
			left := 0
			if err := m.Flows(func(bpfmap.Flow) bool { left++; return true }); err != nil {
				t.Fatal(err)
			}
			if left != tt.live || f.Live() != tt.live {
				t.Errorf("%d left, %d reported, want %d", left, f.Live(), tt.live)
			}
		})
	}
}

func TestForgetTakesBothSides(t *testing.T) {
	m := bpfmap.Fake(nil)
	front, back := nodePortFlow(7, 7)
	other := flowBetween(desired.TCP, "10.244.0.3:1", "10.244.0.4:2", abi.CTSyn|abi.CTReplied, 7)
	for _, f := range []bpfmap.Flow{front, back, other} {
		if err := m.PutFlow(f); err != nil {
			t.Fatal(err)
		}
	}
	f := NewFlows(m, quiet)
	f.Forget(netip.MustParseAddr("10.244.0.2"))
	if err := f.sweep(7); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := m.Flow(other.Key); !ok || err != nil || f.Live() != 1 {
		t.Errorf("another pod's flow is there: %t, %v; %d live", ok, err, f.Live())
	}
}

func TestForgetBackendTakesItsUDPFlows(t *testing.T) {
	m := bpfmap.Fake(nil)
	front := rewritten(flowBetween(desired.UDP, "198.51.100.1:4000", "192.0.2.1:30053", abi.CTReplied, 7), "", "10.244.0.2:53")
	back := rewritten(flowBetween(desired.UDP, "198.51.100.1:4000", "10.244.0.2:53", abi.CTReplySide, 7), "192.0.2.1:30053", "")
	direct := flowBetween(desired.UDP, "10.244.0.3:4000", "10.244.0.2:53", abi.CTReplied, 7)
	tcp, _ := nodePortFlow(7, 7)
	for _, f := range []bpfmap.Flow{front, back, direct, tcp} {
		if err := m.PutFlow(f); err != nil {
			t.Fatal(err)
		}
	}
	f := NewFlows(m, quiet)
	f.ForgetBackend(netip.MustParseAddrPort("10.244.0.2:53"))
	f.ForgetBackend(netip.MustParseAddrPort("10.244.0.2:8080"))
	if err := f.sweep(7); err != nil {
		t.Fatal(err)
	}
	for _, kept := range []bpfmap.Flow{direct, tcp} {
		if _, ok, err := m.Flow(kept.Key); !ok || err != nil {
			t.Errorf("%v is gone, %v", kept.Key, err)
		}
	}
	if f.Live() != 2 {
		t.Errorf("%d live", f.Live())
	}
}
