package load

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/skep-io/skep/datapath/abi"
)

const mapsDir = "maps"

// openMaps opens or creates every map that the specs name.
func (o *Objects) openMaps(specs []*ebpf.CollectionSpec) error {
	wanted := map[string]*ebpf.MapSpec{}
	for _, spec := range specs {
		for name, m := range spec.Maps {
			// Sections such as .rodata belong to one object file.
			if !strings.HasPrefix(name, ".") {
				wanted[name] = m
			}
		}
	}
	if o.dir != "" {
		if err := os.MkdirAll(o.path(mapsDir), 0o700); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if err := o.openMap(name, wanted[name]); err != nil {
			return err
		}
	}
	if o.dir == "" {
		return nil
	}
	return o.unfinished()
}

// openMap takes the pinned map, replaces one of another layout, or creates
// and pins the first one.
func (o *Objects) openMap(name string, spec *ebpf.MapSpec) error {
	// What is worked on is no state: its layout may change from one build to the next.
	if o.dir == "" || name == abi.MapScratch || name == abi.MapHop || name == abi.MapDNSScratch {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return fmt.Errorf("create map %s: %w", name, err)
		}
		o.maps[name] = m
		return nil
	}
	path := o.path(mapsDir, name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return o.createMap(name, path, spec)
	}
	if err != nil {
		return fmt.Errorf("map %s: %w", path, err)
	}
	if err := spec.Compatible(m); errors.Is(err, ebpf.ErrMapIncompatible) {
		m.Close()
		return o.replaceMap(name, path, spec)
	} else if err != nil {
		m.Close()
		return fmt.Errorf("map %s: %w", path, err)
	}
	o.maps[name] = m
	return nil
}

func (o *Objects) createMap(name, path string, spec *ebpf.MapSpec) error {
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("create map %s: %w", name, err)
	}
	if err := m.Pin(path); err != nil {
		m.Close()
		return fmt.Errorf("pin map %s: %w", path, err)
	}
	o.maps[name] = m
	return nil
}

// allowMemory lifts the limit on locked memory where maps count against it
// (before 5.11). Without the right to do so, creating a map tells.
func allowMemory() { _ = rlimit.RemoveMemlock() }
