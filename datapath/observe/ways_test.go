package observe

import (
	"net/netip"
	"testing"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

func TestWays(t *testing.T) {
	m := bpfmap.Fake(nil)
	near, far := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("198.51.100.7")
	if err := m.Tunnels().Put(netip.MustParsePrefix("10.244.9.0/24"), desired.Tunnel{Node: far, MTU: 1450}); err != nil {
		t.Fatal(err)
	}
	routes := map[netip.Prefix]desired.Route{
		netip.MustParsePrefix("10.244.8.0/24"): {Device: 1, Gateway: near},
		netip.MustParsePrefix("10.244.9.0/24"): {Device: 1, Gateway: netip.MustParseAddr("169.254.83.1"), MTU: 1450},
	}
	rows, err := Ways(m, routes, map[netip.Addr]string{far: "b", near: "a"})
	if err != nil {
		t.Fatal(err)
	}
	want := []Way{
		{Pods: "10.244.8.0/24", Name: "a", Node: "192.0.2.9", Way: "direct", Device: "lo", MTU: 65536},
		{Pods: "10.244.9.0/24", Name: "b", Node: "198.51.100.7", Way: "tunnel", Device: "lo", MTU: 1450},
	}
	if len(rows) != 2 || rows[0] != want[0] || rows[1] != want[1] {
		t.Errorf("have %+v, want %+v", rows, want)
	}
}
