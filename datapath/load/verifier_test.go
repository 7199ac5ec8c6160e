package load

import (
	"errors"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/datapath/abi"
)

// processed is how the verifier's log tells its work, on every kernel.
var processed = regexp.MustCompile(`processed (\d+) insns`)

// verifierLimit is how many instructions of a program the verifier may follow, on every kernel: a tenth of what it would.
const verifierLimit = 100_000

// TestVerifierHasRoom keeps the programs below verifierLimit. Kernels such as 5.10 and 6.1 forget less of what they have seen, and follow
// more than 6.12. It loads every program alone, and says what that takes.
func TestVerifierHasRoom(t *testing.T) {
	specs, shared := openAll(t)
	for _, spec := range specs {
		for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
			t.Run(name, func(t *testing.T) {
				only := spec.Copy()
				only.Programs = map[string]*ebpf.ProgramSpec{name: only.Programs[name]}
				n, took := verify(t, only, shared, name)
				t.Logf("program %s: %d instructions, %d ms", name, n, took.Milliseconds())
				if n > verifierLimit {
					t.Errorf("%s: the verifier followed %d instructions", name, n)
				}
			})
		}
	}
}

// openAll gives the object files as they are loaded here, with their maps.
func openAll(t *testing.T) ([]*ebpf.CollectionSpec, map[string]*ebpf.Map) {
	t.Helper()
	cfg := Config{
		ClusterNetwork:  netip.MustParsePrefix("10.244.0.0/16"),
		ClusterNetwork6: netip.MustParsePrefix("fd00:244::/48"),
		PodNetwork:      netip.MustParsePrefix("10.244.0.0/24"),
		PodNetwork6:     netip.MustParsePrefix("fd00:244::/64"),
		ServiceNetwork:  netip.MustParsePrefix("10.96.0.0/16"),
		ServiceNetwork6: netip.MustParsePrefix("fd00:96::/112"),
		Router:          netip.MustParseAddr("10.244.0.1"),
		Router6:         netip.MustParseAddr("fd00:244::1"),
	}
	found, err := probe()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("features: %+v", found)
	allowMemory()
	specs, err := abi.Specs()
	if err != nil {
		t.Fatal(err)
	}
	o := &Objects{maps: map[string]*ebpf.Map{}}
	t.Cleanup(func() { o.Close() })
	for _, spec := range specs.All() {
		if err := configure(spec, cfg, found); err != nil {
			t.Fatal(err)
		}
		if err := o.openMaps([]*ebpf.CollectionSpec{spec}); err != nil {
			t.Fatal(err)
		}
	}
	return specs.All(), o.maps
}

// verify loads the one program of an object file on maps that are there, and returns how many instructions the verifier followed.
func verify(t *testing.T, only *ebpf.CollectionSpec, shared map[string]*ebpf.Map, name string) (int, time.Duration) {
	t.Helper()
	mine := maps.Clone(shared)
	maps.DeleteFunc(mine, func(name string, _ *ebpf.Map) bool { return only.Maps[name] == nil })
	options := ebpf.CollectionOptions{
		MapReplacements: mine, Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	}
	begin := time.Now()
	coll, err := ebpf.NewCollectionWithOptions(only, options)
	if err != nil {
		if verdict, ok := errors.AsType[*ebpf.VerifierError](err); ok {
			t.Log(strings.Join(verdict.Log[max(0, len(verdict.Log)-40):], "\n"))
		}
		t.Fatalf("%s: %v", name, err)
	}
	took := time.Since(begin)
	defer coll.Close()
	match := processed.FindStringSubmatch(coll.Programs[name].VerifierLog)
	if match == nil {
		t.Fatalf("no statistics in the verifier's log: %q", coll.Programs[name].VerifierLog)
	}
	n, err := strconv.Atoi(match[1])
	if err != nil {
		t.Fatal(err)
	}
	return n, took
}
