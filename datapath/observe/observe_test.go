package observe

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// filled is a small node: a Service by cluster IP and node port, one without endpoints, a pod and a flow.
func filled(t *testing.T) *bpfmap.Maps {
	t.Helper()
	m := bpfmap.Fake(nil)
	backend := desired.Backend{Address: netip.MustParseAddrPort("10.244.0.2:8080"), Protocol: desired.TCP}
	must(t, m.PutSlot(1, 0, backend))
	must(t, m.PutService(bpfmap.ServiceRow{ID: 1, Slots: 1, Revision: 1}))
	must(t, m.PutService(bpfmap.ServiceRow{ID: 2, Revision: 1}))
	for address, id := range map[string]uint32{"10.96.0.1:80": 1, "0.0.0.0:30080": 1, "10.96.0.2:80": 2} {
		must(t, m.PutFrontend(desired.Frontend{Address: netip.MustParseAddrPort(address), Protocol: desired.TCP}, bpfmap.Target{Service: id, Outside: id}))
	}
	must(t, m.PutEndpoint(desired.Endpoint{Address: netip.MustParseAddr("10.244.0.2"), IfIndex: 5, NetNS: 7}, bpfmap.EndpointPolicy{}))
	key, from := abi.NewConntrackKey(netip.MustParseAddrPort("192.0.2.9:4000"), netip.MustParseAddrPort("192.0.2.1:30080"), 6)
	flow := bpfmap.Flow{Key: key, Value: abi.Conntrack{
		Flags: abi.CTRewriteDst | abi.CTReplied, Dst: abi.AddrFrom(backend.Address.Addr()), Dport: abi.Port(8080),
	}}
	if from == 1 {
		flow.Value.Flags |= abi.CTFromHigh
	}
	must(t, m.PutFlow(flow))
	_, err := m.RaiseGeneration()
	must(t, err)
	return m
}

var names = Names{
	Services: map[netip.AddrPort]string{netip.MustParseAddrPort("10.96.0.1:80"): "default/echo:http"},
	Pods:     map[netip.Addr]string{netip.MustParseAddr("10.244.0.2"): "default/echo-1"},
}

// table reads rows and formats them.
func table[R Row](t *testing.T, read func() ([]R, error)) string {
	t.Helper()
	rows, err := read()
	must(t, err)
	var b strings.Builder
	must(t, WriteTable(&b, rows))
	return b.String()
}

func TestTables(t *testing.T) {
	m := filled(t)
	tests := []struct{ name, got, want string }{
		{"services", table(t, func() ([]Service, error) { return Services(m, names) }), `
FRONTEND       PROTOCOL   SERVICE             ID   BACKENDS
*:30080        TCP        -                   1    10.244.0.2:8080
10.96.0.1:80   TCP        default/echo:http   1    10.244.0.2:8080
10.96.0.2:80   TCP        -                   2    none: refused
`},
		{"backends", table(t, func() ([]Backend, error) { return Backends(m, names) }), `
BACKEND           PROTOCOL   POD              FRONTENDS
10.244.0.2:8080   TCP        default/echo-1   0.0.0.0:30080,10.96.0.1:80
`},
		{"endpoints", table(t, func() ([]Endpoint, error) { return Endpoints(m, names) }), `
ADDRESS      POD              DEVICE   MAC
10.244.0.2   default/echo-1   5        00:00:00:00:00:00
`},
		{"flows", table(t, func() ([]Flow, error) { return Flows(m, names, 10*time.Second) }), `
PROTOCOL   FROM             TO                NEW SOURCE   NEW DESTINATION   STATE         IDLE   FROM POD   TO POD
TCP        192.0.2.9:4000   192.0.2.1:30080   -            10.244.0.2:8080   established   10s    -          -
`},
		{"drops", table(t, func() ([]Drop, error) { return Drops(m) }), "\nnone\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.got != strings.TrimPrefix(tt.want, "\n") {
				t.Errorf("got:\n%s\nwant:%s", tt.got, tt.want)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	p := NewProgramming(time.Now())
	must(t, Register(registry, sources(filled(t), p)))
	want := `# HELP skep_datapath_map_rows Rows in a map.
# TYPE skep_datapath_map_rows gauge
skep_datapath_map_rows{map="cidr"} 0
skep_datapath_map_rows{map="conntrack"} 1
skep_datapath_map_rows{map="device"} 0
skep_datapath_map_rows{map="endpoint"} 1
skep_datapath_map_rows{map="frontend"} 3
skep_datapath_map_rows{map="identity"} 0
skep_datapath_map_rows{map="load"} 0
skep_datapath_map_rows{map="netns"} 1
skep_datapath_map_rows{map="node"} 0
skep_datapath_map_rows{map="peer"} 0
skep_datapath_map_rows{map="policy"} 0
skep_datapath_map_rows{map="ports"} 0
skep_datapath_map_rows{map="record"} 0
skep_datapath_map_rows{map="slot"} 1
skep_datapath_map_rows{map="source_range"} 0
skep_datapath_map_rows{map="tunnel"} 0
# HELP skep_datapath_policy_sets Sets of peers and ports that policies allow to pods of this node.
# TYPE skep_datapath_policy_sets gauge
skep_datapath_policy_sets 2
# HELP skep_datapath_sockets_reset_total Connected sockets that were reset because their backend is gone.
# TYPE skep_datapath_sockets_reset_total counter
skep_datapath_sockets_reset_total 7
`
	must(t, testutil.GatherAndCompare(registry, strings.NewReader(want), "skep_datapath_map_rows", "skep_datapath_policy_sets", "skep_datapath_sockets_reset_total"))
	problems, err := testutil.GatherAndLint(registry)
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
