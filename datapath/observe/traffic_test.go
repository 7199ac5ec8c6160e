package observe

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// sources are those of a node that has done little.
func sources(m *bpfmap.Maps, p *Programming) Sources {
	return Sources{
		Maps: m, Programming: p,
		Flows:    func() int { return 1 },
		Traffic:  func() map[uint32]abi.Traffic { return nil },
		Name:     func(uint32) (desired.PortName, bool) { return desired.PortName{}, false },
		Resets:   func() (uint64, uint64) { return 7, 0 },
		Policies: func() (int, int) { return 2, 3 },
	}
}

// TestTraffic: the ids of a port are summed up, what is gone is not listed, and counters do not fall.
func TestTraffic(t *testing.T) {
	m := bpfmap.Fake(nil)
	flow := func(service uint32, flags abi.ConntrackFlag, bytes uint32) bpfmap.Flow {
		return bpfmap.Flow{Value: abi.Conntrack{Service: service, Flags: flags, Bytes: bytes}}
	}
	for _, f := range []bpfmap.Flow{
		flow(1, 0, 300), flow(1, 0, 100), flow(2, abi.CTReplySide, 200), flow(3, 0, 900), flow(0, 0, 900),
	} {
		must(t, m.CollectTraffic(f))
	}
	swept := map[uint32]abi.Traffic{1: {Bytes: [2]uint64{1000, 0}}}
	s := sources(m, NewProgramming(time.Now()))
	s.Traffic = func() map[uint32]abi.Traffic { return swept }
	web := desired.PortName{Namespace: "shop", Service: "web", Port: "http"}
	web6 := web
	web6.V6 = true
	names := map[uint32]desired.PortName{1: web, 2: web6}
	s.Name = func(id uint32) (desired.PortName, bool) { name, ok := names[id]; return name, ok }
	registry := prometheus.NewRegistry()
	must(t, Register(registry, s))
	const want = `# HELP skep_service_bytes_total Path socket: payload of TCP connections that were closed. Path packet: bytes of frames.
# TYPE skep_service_bytes_total counter
skep_service_bytes_total{direction="from_backend",namespace="shop",path="packet",port="http",service="web"} 200
skep_service_bytes_total{direction="from_backend",namespace="shop",path="socket",port="http",service="web"} 0
skep_service_bytes_total{direction="to_backend",namespace="shop",path="packet",port="http",service="web"} 1000
skep_service_bytes_total{direction="to_backend",namespace="shop",path="socket",port="http",service="web"} 0
`
	must(t, testutil.GatherAndCompare(registry, strings.NewReader(want), "skep_service_bytes_total"))
	// Flows that have ended since the sweep before are not in this one's, and their sums not yet in the kernel's.
	swept = nil
	must(t, testutil.GatherAndCompare(registry, strings.NewReader(want), "skep_service_bytes_total"))
	clear(names)
	must(t, testutil.GatherAndCompare(registry, strings.NewReader(""), "skep_service_bytes_total"))
	must(t, m.DeleteTraffic(1))
	if left, err := m.Traffic(); err != nil || len(left) != 2 {
		t.Errorf("%v, %v: want those of 2 and 3", left, err)
	}
}

func TestProgramming(t *testing.T) {
	start := time.Now().Add(-time.Minute)
	p := NewProgramming(start)
	waiting := func(want float64) {
		t.Helper()
		if n := testutil.ToFloat64(p.waiting[EndpointsChange]); n != want {
			t.Errorf("%v changes wait, want %v", n, want)
		}
	}
	p.Changed(EndpointsChange, start.Add(-time.Second))
	p.Changed(EndpointsChange, time.Now().Add(-time.Second))
	round := p.Begin()
	p.Changed(EndpointsChange, time.Now())
	round.Failed()
	waiting(3)
	round = p.Begin()
	p.Changed(EndpointsChange, time.Time{})
	round.Done(time.Now())
	waiting(1)
	if n := testutil.ToFloat64(p.changes[EndpointsChange]); n != 4 {
		t.Errorf("%v changes, want 4", n)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(p.network)
	families, err := registry.Gather()
	must(t, err)
	// What happened before the start does not count.
	if n := families[0].Metric[0].Histogram.GetSampleCount(); n != 2 {
		t.Errorf("%d delays, want 2", n)
	}
}
