package bpfmap

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/desired"
)

// eachMaps runs a test over the fake and over the kernel's maps, which must behave alike.
func eachMaps(t *testing.T, test func(*testing.T, *Maps)) {
	t.Run("fake", func(t *testing.T) { test(t, Fake(nil)) })
	t.Run("kernel", func(t *testing.T) {
		m, err := Create()
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		test(t, m)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func assertDump(t *testing.T, m *Maps, want string) {
	t.Helper()
	got, err := m.Dump()
	must(t, err)
	if got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestServices(t *testing.T) {
	eachMaps(t, func(t *testing.T, m *Maps) {
		f := desired.Frontend{Address: netip.MustParseAddrPort("10.96.0.1:80"), Protocol: desired.TCP, Kind: desired.ClusterIP}
		b := desired.Backend{Address: netip.MustParseAddrPort("10.244.0.2:8080"), Protocol: desired.TCP}
		for range 2 { // puts may be repeated
			must(t, m.PutSlot(7, 0, b))
			must(t, m.PutService(ServiceRow{ID: 7, Slots: 1, Revision: 3}))
			must(t, m.PutFrontend(f, Target{Service: 7, Outside: 7}))
		}
		assertDump(t, m, "frontend 10.96.0.1:80/TCP -> [10.244.0.2:8080]\n")
		tables, err := m.Services()
		must(t, err)
		if s := tables.Services[7]; s.Row.Slots != 1 || s.Row.Revision != 3 || len(s.Backends) != 1 || s.Backends[0].Address != b.Address {
			t.Errorf("service 7 is %+v", s)
		}
		for range 2 { // and so may deletions
			must(t, m.DeleteFrontend(f))
			must(t, m.DeleteService(7))
			must(t, m.DeleteSlot(7, 0))
		}
		assertDump(t, m, "")
	})
}

func TestManyRows(t *testing.T) {
	const n = 3 * batch
	eachMaps(t, func(t *testing.T, m *Maps) {
		var slots []Slot
		var services []ServiceRow
		var frontends []FrontendRow
		for i := range uint32(n) {
			addr := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
			slots = append(slots, Slot{i, 0, desired.Backend{Address: netip.AddrPortFrom(addr, 8080)}})
			services = append(services, ServiceRow{ID: i, Slots: 1, Revision: 1})
			f := desired.Frontend{Address: netip.AddrPortFrom(addr, 80), Protocol: desired.UDP}
			frontends = append(frontends, FrontendRow{f, Target{Service: i, Outside: i}})
		}
		must(t, m.PutSlots(slots))
		must(t, m.PutServices(services))
		must(t, m.PutFrontends(frontends))
		tables, err := m.Services()
		must(t, err)
		if len(tables.Frontends) != n || len(tables.Services) != n {
			t.Fatalf("%d frontends, %d services", len(tables.Frontends), len(tables.Services))
		}
		for _, row := range frontends {
			s := tables.Services[tables.Frontends[row.Frontend].Service]
			if s.Row.Slots != 1 || s.Backends[0].Address.Addr() != row.Frontend.Address.Addr() {
				t.Fatalf("%s leads to %+v", row.Frontend.Address, s)
			}
		}
		rows, err := m.Rows()
		must(t, err)
		if rows[abi.MapFrontend] != n || rows[abi.MapSlot] != n {
			t.Errorf("rows %v", rows)
		}
	})
}

func TestEndpointsNodesDevices(t *testing.T) {
	eachMaps(t, func(t *testing.T, m *Maps) {
		a := netip.MustParseAddr("10.244.0.2")
		e := desired.Endpoint{Address: a, IfIndex: 9, PodMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, NetNS: 77}
		must(t, m.PutEndpoint(e, EndpointPolicy{Identity: 16, Egress: 1}))
		must(t, m.PutEndpoint(desired.Endpoint{Address: netip.MustParseAddr("10.244.0.3"), NetNS: 78}, EndpointPolicy{}))
		must(t, m.DeleteEndpoint(netip.MustParseAddr("10.244.0.3")))
		if pod, ok, err := m.netns.get(77); err != nil || !ok || pod.Netip() != a {
			t.Errorf("network namespace 77 is of %s, %t, %v", pod, ok, err)
		}
		must(t, m.Nodes().Put(netip.MustParseAddr("192.0.2.1"), desired.Node{Local: true}))
		must(t, m.Nodes().Put(netip.MustParseAddr("192.0.2.2"), desired.Node{}))
		must(t, m.Devices().Put(2, desired.Device{Masquerade: netip.MustParseAddr("192.0.2.1")}))
		assertDump(t, m, `device 2 masquerade=192.0.2.1
endpoint 10.244.0.2 -> device 9 02:00:00:00:00:01
node 192.0.2.1 local=true
node 192.0.2.2 local=false
`)
		if got, p, ok, err := m.Endpoint(a); err != nil || !ok || got.IfIndex != 9 || p.Identity != 16 || p.Egress != 1 {
			t.Errorf("endpoint %+v, %t, %v", got, ok, err)
		}
		for range 2 {
			must(t, m.DeleteEndpoint(a))
			must(t, m.Nodes().Delete(netip.MustParseAddr("192.0.2.1")))
			must(t, m.Devices().Delete(2))
		}
		if _, _, ok, err := m.Endpoint(a); err != nil || ok {
			t.Errorf("the endpoint is there: %t, %v", ok, err)
		}
		if rows, err := m.Rows(); err != nil || rows[abi.MapNetns] != 0 {
			t.Errorf("rows left %v, %v", rows, err)
		}
		assertDump(t, m, "node 192.0.2.2 local=false\n")
	})
}

func TestControl(t *testing.T) {
	eachMaps(t, func(t *testing.T, m *Maps) {
		for want := uint32(1); want < 4; want++ {
			must(t, m.RaiseEpoch())
			got, err := m.RaiseGeneration()
			must(t, err)
			if now, err := m.Generation(); err != nil || now != want || got != want {
				t.Errorf("generation %d, then %d, want %d; %v", got, now, want, err)
			}
		}
	})
}

func TestFlows(t *testing.T) {
	eachMaps(t, func(t *testing.T, m *Maps) {
		client, server := netip.MustParseAddrPort("10.244.0.2:4000"), netip.MustParseAddrPort("10.96.0.1:80")
		key, from := abi.NewConntrackKey(client, server, uint8(desired.TCP))
		flow := Flow{Key: key, Value: abi.Conntrack{Flags: abi.CTRewriteDst, Dst: abi.AddrFrom(netip.MustParseAddr("10.244.0.9"))}}
		if from == 1 {
			flow.Value.Flags |= abi.CTFromHigh
		}
		must(t, m.PutFlow(flow))
		seen := 0
		must(t, m.Flows(func(f Flow) bool {
			seen++
			if a, b := f.Ends(); a != client || b != server {
				t.Errorf("ends %s and %s", a, b)
			}
			for _, s := range []string{"10.244.0.2", "10.96.0.1", "10.244.0.9"} {
				if !f.Touches(map[netip.Addr]struct{}{netip.MustParseAddr(s): {}}) {
					t.Errorf("does not touch %s", s)
				}
			}
			return true
		}))
		if seen != 1 {
			t.Errorf("%d flows", seen)
		}
		must(t, m.DeleteFlow(key))
		if _, ok, err := m.Flow(key); ok || err != nil {
			t.Errorf("the flow is there: %t, %v", ok, err)
		}
	})
}

func TestDropsNameEveryCounter(t *testing.T) {
	eachMaps(t, func(t *testing.T, m *Maps) {
		drops, err := m.Drops()
		must(t, err)
		if len(drops) != abi.Reasons*abi.Places {
			t.Errorf("%d counters", len(drops))
		}
		for _, d := range drops {
			if d.Reason == "" || d.Place == "" {
				t.Errorf("nameless counter %+v", d)
			}
		}
	})
}

// BenchmarkSweep is one look at the whole flow table, which an idle node takes once in a while.
func BenchmarkSweep(b *testing.B) {
	for _, flows := range []int{0, 50000} {
		b.Run(fmt.Sprint(flows), func(b *testing.B) {
			m, err := Create()
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			for i := range flows {
				from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
				key, _ := abi.NewConntrackKey(from, netip.MustParseAddrPort("10.96.0.1:80"), 6)
				if err := m.PutFlow(Flow{Key: key}); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			for range b.N {
				if err := m.Flows(func(Flow) bool { return true }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
