package load

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"

	"github.com/skep-io/skep/datapath/abi"
)

// processed is how the verifier's log tells its work, on every kernel.
var processed = regexp.MustCompile(`processed (\d+) insns`)

// TestVerifierHasRoom keeps the programs far below the million instructions that the verifier follows. Kernels such as
// 5.10 and 6.1 forget less of what they have seen, and follow up to three times as many as 6.12. It loads every program alone, and says
// what that takes.
func TestVerifierHasRoom(t *testing.T) {
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
	version, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	limit := 100_000
	if version < 6<<16|12<<8 {
		limit = 300_000
	}
	for _, spec := range specs.All() {
		if err := configure(spec, cfg, found); err != nil {
			t.Fatal(err)
		}
		o := &Objects{maps: map[string]*ebpf.Map{}}
		defer o.Close()
		if err := o.openMaps([]*ebpf.CollectionSpec{spec}); err != nil {
			t.Fatal(err)
		}
		for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
			t.Run(name, func(t *testing.T) { measure(t, spec, o.maps, name, limit) })
		}
	}
}

// measure loads one program of an object file on maps that are there.
func measure(t *testing.T, spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map, name string, limit int) {
	only := spec.Copy()
	only.Programs = map[string]*ebpf.ProgramSpec{name: only.Programs[name]}
	options := ebpf.CollectionOptions{
		MapReplacements: shared, Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	}
	begin := time.Now()
	coll, err := ebpf.NewCollectionWithOptions(only, options)
	if err != nil {
		text := fmt.Sprintf("%+v", err)
		t.Fatal(text[max(0, len(text)-4000):])
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
	t.Logf("program %s: %d instructions, %d ms", name, n, took.Milliseconds())
	if n > limit {
		t.Errorf("%s: the verifier followed %d instructions", name, n)
	}
}
