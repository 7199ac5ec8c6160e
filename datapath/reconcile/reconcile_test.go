package reconcile

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/maglev"
)

// row builds a service of one port: name, cluster IP and backends as text.
func row(name, frontends, backends string) desired.Service {
	s := desired.Service{Name: desired.PortName{Namespace: "ns", Service: name}}
	for _, f := range strings.Fields(frontends) {
		s.Frontends = append(s.Frontends, desired.Frontend{
			Address: netip.MustParseAddrPort(f), Protocol: desired.TCP, Kind: desired.ClusterIP,
		})
	}
	for _, b := range strings.Fields(backends) {
		s.Backends = append(s.Backends, desired.Backend{Address: netip.MustParseAddrPort(b), Protocol: desired.TCP})
	}
	slices.SortFunc(s.Frontends, desired.Frontend.Compare)
	slices.SortFunc(s.Backends, desired.Backend.Compare)
	return s
}

func owner(name string) Owner { return Owner{"ns", name} }

func restore(t *testing.T, m *bpfmap.Maps) *Services {
	t.Helper()
	s, err := Restore(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func apply(t *testing.T, s *Services) {
	t.Helper()
	if err := s.Apply(); err != nil {
		t.Fatal(err)
	}
	if s.Pending() {
		t.Fatal("pending after an Apply without errors")
	}
}

func assertDump(t *testing.T, m *bpfmap.Maps, want string) {
	t.Helper()
	got, err := m.Dump()
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestServiceLifecycle(t *testing.T) {
	m := bpfmap.Fake(nil)
	s := restore(t, m)
	steps := []struct {
		what string
		row  []desired.Service
		want string
	}{
		{"created without endpoints", []desired.Service{row("a", "10.96.0.1:80", "")}, "frontend 10.96.0.1:80/TCP -> []\n"},
		{"two endpoints", []desired.Service{row("a", "10.96.0.1:80", "10.1.0.2:8080 10.1.0.3:8080")},
			"frontend 10.96.0.1:80/TCP -> [10.1.0.2:8080 10.1.0.3:8080]\n"},
		{"one goes, one comes", []desired.Service{row("a", "10.96.0.1:80", "10.1.0.3:8080 10.1.0.1:8080")},
			"frontend 10.96.0.1:80/TCP -> [10.1.0.1:8080 10.1.0.3:8080]\n"},
		{"becomes a node port", []desired.Service{row("a", "10.96.0.1:80 0.0.0.0:30080", "10.1.0.3:8080")},
			"frontend 0.0.0.0:30080/TCP -> [10.1.0.3:8080]\nfrontend 10.96.0.1:80/TCP -> [10.1.0.3:8080]\n"},
		{"scaled to zero", []desired.Service{row("a", "10.96.0.1:80", "")}, "frontend 10.96.0.1:80/TCP -> []\n"},
		{"deleted", nil, ""},
	}
	for _, step := range steps {
		t.Run(step.what, func(t *testing.T) {
			s.Set(owner("a"), step.row)
			apply(t, s)
			assertDump(t, m, step.want)
		})
	}
}

func TestRestartKeepsIDsAndPrunes(t *testing.T) {
	m := bpfmap.Fake(nil)
	s := restore(t, m)
	for i := range 5 {
		name := fmt.Sprint("s", i)
		s.Set(owner(name), []desired.Service{row(name, fmt.Sprintf("10.96.0.%d:80", i), "10.1.0.2:80 10.1.0.3:80")})
	}
	apply(t, s)
	before, err := m.Services()
	if err != nil {
		t.Fatal(err)
	}

	s = restore(t, m)
	for i := range 4 { // s4 was deleted meanwhile, s0 was scaled; they come in another order
		name := fmt.Sprint("s", 3-i)
		backends := "10.1.0.2:80 10.1.0.3:80"
		if i == 3 {
			backends = "10.1.0.3:80"
		}
		s.Set(owner(name), []desired.Service{row(name, fmt.Sprintf("10.96.0.%d:80", 3-i), backends)})
	}
	s.Set(owner("new"), []desired.Service{row("new", "10.96.0.99:80", "")})
	apply(t, s)
	after, err := m.Services()
	if err != nil {
		t.Fatal(err)
	}
	for f, id := range before.Frontends {
		if after.Frontends[f] != id {
			t.Errorf("%s moved from %v to %v", f.Address, id, after.Frontends[f])
		}
	}
	if err := s.Prune(); err != nil {
		t.Fatal(err)
	}
	assertDump(t, m, `frontend 10.96.0.0:80/TCP -> [10.1.0.3:80]
frontend 10.96.0.1:80/TCP -> [10.1.0.2:80 10.1.0.3:80]
frontend 10.96.0.2:80/TCP -> [10.1.0.2:80 10.1.0.3:80]
frontend 10.96.0.3:80/TCP -> [10.1.0.2:80 10.1.0.3:80]
frontend 10.96.0.99:80/TCP -> []
`)
}

func TestRestartWritesNothingThatIsThere(t *testing.T) {
	writes := 0
	m := bpfmap.Fake(func(string, string) error { writes++; return nil })
	s := restore(t, m)
	s.Set(owner("a"), []desired.Service{row("a", "10.96.0.1:80 0.0.0.0:30080", "10.1.0.2:80 10.1.0.3:80")})
	apply(t, s)
	writes = 0
	s = restore(t, m)
	s.Set(owner("a"), []desired.Service{row("a", "10.96.0.1:80 0.0.0.0:30080", "10.1.0.2:80 10.1.0.3:80")})
	apply(t, s)
	if err := s.Prune(); err != nil || writes != 0 {
		t.Errorf("%d writes, %v", writes, err)
	}
}

func TestSharedExternalIPGoesToTheFirstName(t *testing.T) {
	m := bpfmap.Fake(nil)
	s := restore(t, m)
	s.Set(owner("b"), []desired.Service{row("b", "10.96.0.2:80 198.51.100.1:80", "10.1.0.2:80")})
	apply(t, s)
	s.Set(owner("a"), []desired.Service{row("a", "10.96.0.1:80 198.51.100.1:80", "10.1.0.1:80")})
	apply(t, s)
	assertDump(t, m, `frontend 10.96.0.1:80/TCP -> [10.1.0.1:80]
frontend 10.96.0.2:80/TCP -> [10.1.0.2:80]
frontend 198.51.100.1:80/TCP -> [10.1.0.1:80]
`)
	s.Set(owner("a"), nil)
	apply(t, s)
	assertDump(t, m, `frontend 10.96.0.2:80/TCP -> [10.1.0.2:80]
frontend 198.51.100.1:80/TCP -> [10.1.0.2:80]
`)
}

// TestOrder checks at every single write that no frontend leads to a service that was not written, and no service counts a
// slot that is not there: what a packet could meet at that moment, or a new process after a kill.
func TestOrder(t *testing.T) {
	var m *bpfmap.Maps
	watching := true
	m = bpfmap.Fake(func(op, table string) error {
		if watching {
			assertWhole(t, m, op+" "+table)
		}
		return nil
	})
	s := restore(t, m)
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		name := fmt.Sprint("s", random.IntN(4))
		var rows []desired.Service
		if random.IntN(5) > 0 {
			rows = randomRows(random, name)
		}
		s.Set(owner(name), rows)
		apply(t, s)
	}
	watching = false
	for i := range 4 {
		s.Set(owner(fmt.Sprint("s", i)), nil)
	}
	apply(t, s)
	assertDump(t, m, "")
}

// randomRows are the row of a Service and, at times, the local one.
func randomRows(random *rand.Rand, name string) []desired.Service {
	frontends := "10.96.0." + name[1:] + ":80"
	if random.IntN(2) == 0 {
		frontends += " 198.51.100.1:80"
	}
	all := row(name, frontends, randomBackends(random))
	all.Ring = random.IntN(2) == 0
	all.Affinity = uint32(random.IntN(2)) * 60
	all.Least = random.IntN(2) == 0
	for i := range 3 {
		if random.IntN(3) == 0 {
			all.SourceRanges = append(all.SourceRanges, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16))
			all.Frontends[0].Restricted = true
		}
	}
	if random.IntN(2) == 0 {
		return []desired.Service{all}
	}
	all.Frontends[0].Local = random.IntN(2) == 0
	all.Frontends[0].LocalOutside = true
	local := row(name, "", randomBackends(random))
	local.Name.Local, local.Silent = true, random.IntN(2) == 0
	return []desired.Service{all, local}
}

func randomBackends(random *rand.Rand) string {
	var backends []string
	for i := range 6 {
		if random.IntN(2) == 0 {
			backends = append(backends, fmt.Sprintf("10.1.0.%d:80", i+1))
		}
	}
	return strings.Join(backends, " ")
}

func assertWhole(t *testing.T, m *bpfmap.Maps, before string) {
	t.Helper()
	tables, err := m.Services()
	if err != nil {
		t.Fatal(err)
	}
	for f, target := range tables.Frontends {
		assertTarget(t, m, tables, f, target.Service, before)
		assertTarget(t, m, tables, f, target.Outside, before)
	}
}

func assertTarget(t *testing.T, m *bpfmap.Maps, tables bpfmap.ServiceTables, f desired.Frontend, id uint32, before string) {
	t.Helper()
	s := tables.Services[id]
	places, err := m.Ring(s.Row.Ring, s.Row.RingSize)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range places {
		if uint32(slot) >= s.Row.Slots {
			t.Fatalf("before %s: the ring of %s has slot %d of %d", before, f.Address, slot, s.Row.Slots)
		}
	}
	if s.Row.Revision == 0 {
		t.Fatalf("before %s: %s leads to a service that is not there", before, f.Address)
	}
	for i := range s.Row.Slots {
		if int(i) >= len(s.Backends) || s.Backends[i] == (desired.Backend{}) {
			t.Fatalf("before %s: %s has %d slots but no slot %d", before, f.Address, s.Row.Slots, i)
		}
	}
}

// TestFaults lets random writes fail, restarts at random, and expects the right state once the kernel works again.
func TestFaults(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	rate := 0.0
	errFull := errors.New("map is full")
	m := bpfmap.Fake(func(op, table string) error {
		if random.Float64() < rate {
			return fmt.Errorf("%s %s: %w", op, table, errFull)
		}
		return nil
	})
	s := restore(t, m)
	want := map[string][]desired.Service{}
	for round := range 400 {
		rate = 0.3
		name := fmt.Sprint("s", random.IntN(6))
		want[name] = nil
		if random.IntN(4) > 0 {
			want[name] = randomRows(random, name)
		}
		s.Set(owner(name), want[name])
		if err := s.Apply(); err != nil && !errors.Is(err, errFull) && !errors.Is(err, errStillReached) {
			t.Fatal(err)
		}
		if round%10 == 9 { // a kill
			s = restore(t, m)
			for name, rows := range want {
				s.Set(owner(name), rows)
			}
		}
		if round%5 != 4 {
			continue
		}
		rate = 0
		apply(t, s)
		if err := s.Prune(); err != nil {
			t.Fatal(err)
		}
		fresh := bpfmap.Fake(nil)
		clean := restore(t, fresh)
		for name, rows := range want {
			clean.Set(owner(name), rows)
		}
		apply(t, clean)
		wanted, err := fresh.Dump()
		if err != nil {
			t.Fatal(err)
		}
		assertDump(t, m, wanted)
		assertRings(t, m)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
}

// assertRings expects that the rings of Services are those of their backends, and that no two share a block.
func assertRings(t *testing.T, m *bpfmap.Maps) {
	t.Helper()
	tables, err := m.Services()
	if err != nil {
		t.Fatal(err)
	}
	var used rings
	for id, s := range tables.Services {
		if s.Row.RingSize == 0 {
			continue
		}
		for i := range blocks(s.Row.RingSize) {
			if used.used[int(s.Row.Ring)+i] {
				t.Errorf("service %d: its ring is another's too", id)
			}
		}
		used.mark(s.Row.Ring, s.Row.RingSize, true)
		var addresses []netip.AddrPort
		for _, b := range s.Backends[:s.Row.Slots] {
			addresses = append(addresses, b.Address)
		}
		places, err := m.Ring(s.Row.Ring, s.Row.RingSize)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(places, maglev.Ring(int(s.Row.RingSize), addresses)) {
			t.Errorf("service %d: its ring is not that of its backends", id)
		}
	}
}

// TestBulk compares many Services written at once with the same ones written one by one, also when the kernel refuses some.
func TestBulk(t *testing.T) {
	fail := false
	writes := 0
	m := bpfmap.Fake(func(string, string) error {
		if writes++; fail && writes%50 == 0 {
			return errors.New("injected")
		}
		return nil
	})
	s, one := restore(t, m), bpfmap.Fake(nil)
	single := restore(t, one)
	random := rand.New(rand.NewPCG(5, 6))
	for i := range 3 * bulkMin {
		name := fmt.Sprint("s", i)
		rows := randomRows(random, name)
		s.Set(owner(name), rows)
		single.Set(owner(name), rows)
		apply(t, single)
	}
	fail = true
	if err := s.Apply(); err == nil {
		t.Fatal("no write failed")
	}
	fail = false
	apply(t, s)
	assertRings(t, m)
	want, err := one.Dump()
	if err != nil {
		t.Fatal(err)
	}
	assertDump(t, m, want)
}

func TestRemovedUDPBackendsAreReported(t *testing.T) {
	var removed []netip.AddrPort
	s, err := Restore(bpfmap.Fake(nil), func(b netip.AddrPort) { removed = append(removed, b) })
	if err != nil {
		t.Fatal(err)
	}
	udp := func(backends string) []desired.Service {
		r := row("a", "10.96.0.1:53", backends)
		for i := range r.Backends {
			r.Backends[i].Protocol = desired.UDP
		}
		return []desired.Service{r}
	}
	for _, rows := range [][]desired.Service{
		udp("10.1.0.1:53 10.1.0.2:53"), udp("10.1.0.2:53 10.1.0.3:53"), nil,
		{row("t", "10.96.0.2:53", "10.1.0.1:53")}, nil,
	} {
		s.Set(owner("a"), rows)
		apply(t, s)
	}
	slices.SortFunc(removed, netip.AddrPort.Compare)
	if got, want := fmt.Sprint(removed), "[10.1.0.1:53 10.1.0.2:53 10.1.0.3:53]"; got != want {
		t.Errorf("removed %s, want %s", got, want)
	}
}

func TestArrangeChangesLittle(t *testing.T) {
	b := func(s string) []desired.Backend { return row("", "", s).Backends }
	have := b("10.0.0.1:1 10.0.0.2:1 10.0.0.3:1 10.0.0.4:1")
	tests := []struct {
		name, want string
		changes    int
	}{
		{"the same", "10.0.0.1:1 10.0.0.2:1 10.0.0.3:1 10.0.0.4:1", 0},
		{"one replaced", "10.0.0.1:1 10.0.0.9:1 10.0.0.3:1 10.0.0.4:1", 1},
		{"first removed", "10.0.0.2:1 10.0.0.3:1 10.0.0.4:1", 1},
		{"last removed", "10.0.0.1:1 10.0.0.2:1 10.0.0.3:1", 0},
		{"one added", "10.0.0.0:1 10.0.0.1:1 10.0.0.2:1 10.0.0.3:1 10.0.0.4:1", 1},
		{"all gone", "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := arrange(have, b(tt.want))
			changes := 0
			for i := range got {
				if i >= len(have) || have[i] != got[i] {
					changes++
				}
			}
			if changes != tt.changes {
				t.Errorf("%d slots change, want %d: %v", changes, tt.changes, got)
			}
			slices.SortFunc(got, desired.Backend.Compare)
			if !slices.Equal(got, b(tt.want)) {
				t.Errorf("got %v, want %s", got, tt.want)
			}
		})
	}
}

func TestRows(t *testing.T) {
	fail := false
	m := bpfmap.Fake(func(string, string) error {
		if fail {
			return errors.New("injected")
		}
		return nil
	})
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	rows, err := RestoreRows[netip.Addr, desired.Node](m.Nodes())
	if err != nil {
		t.Fatal(err)
	}
	rows.Replace(map[netip.Addr]desired.Node{a: {Local: true}})
	fail = true
	if changed, err := rows.Apply(); changed || err == nil {
		t.Errorf("a failing write: changed %t, %v", changed, err)
	}
	fail = false
	if changed, err := rows.Apply(); !changed || err != nil {
		t.Errorf("the next try: changed %t, %v", changed, err)
	}
	assertDump(t, m, "node 192.0.2.1 local=true\n")

	rows, err = RestoreRows[netip.Addr, desired.Node](m.Nodes())
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := rows.Apply(); changed || err != nil {
		t.Errorf("restored rows are wanted until replaced: changed %t, %v", changed, err)
	}
	rows.Replace(map[netip.Addr]desired.Node{b: {}})
	if _, err := rows.Apply(); err != nil {
		t.Fatal(err)
	}
	assertDump(t, m, "node 192.0.2.2 local=false\n")
}
