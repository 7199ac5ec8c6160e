package load

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
)

// An upgrade, or a downgrade, may find pinned maps of another layout, with programs at work on them. Those go on: their maps
// are set aside under another name, and maps of the layout at hand take their place with what the old ones hold. Once every
// program is replaced, what flows the old programs have noted meanwhile is carried over, and the old maps go.

// oldSuffix names a map that was set aside. Until Upgraded has removed it the upgrade is not done, also for the next process.
const oldSuffix = "-old"

// Upgrading tells whether maps were replaced, so that their rows are only as good as a copy of another layout can be. Until
// the rows are renewed nothing should be attached: the programs of the version before are at work on what they know.
func (o *Objects) Upgrading() bool { return len(o.replaced) > 0 }

// Upgraded ends an upgrade, once every program is attached anew: it carries over what the programs of the version before have
// noted since, such as flows, and removes their maps. Without an upgrade it does nothing.
func (o *Objects) Upgraded() error {
	var errs []error
	for name := range o.replaced {
		path := o.path(mapsDir, name+oldSuffix)
		old, err := ebpf.LoadPinnedMap(path, nil)
		if err == nil {
			err = copyRows(o.maps[name], old)
			old.Close()
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("map %s: %w", path, err))
			continue
		}
		errs = append(errs, removePin(path))
		delete(o.replaced, name)
	}
	return errors.Join(errs...)
}

// replaceMap sets the map pinned at path aside and pins one of the layout at hand with its rows.
func (o *Objects) replaceMap(name, path string, spec *ebpf.MapSpec) error {
	old := path + oldSuffix
	if _, err := os.Stat(old); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(path, old); err != nil {
			return fmt.Errorf("set map %s aside: %w", path, err)
		}
	} else if err := removePin(path); err != nil {
		// An upgrade that was not finished: the programs at work have the older map.
		return err
	}
	o.logger.Info("map has another layout and is replaced", "map", name)
	if err := o.createMap(name, path, spec); err != nil {
		return err
	}
	return o.takeOver(name, old)
}

// takeOver copies the rows of the map set aside into its successor.
func (o *Objects) takeOver(name, path string) error {
	old, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return fmt.Errorf("map %s: %w", path, err)
	}
	defer old.Close()
	o.replaced[name] = true
	if err := copyRows(o.maps[name], old); err != nil {
		return fmt.Errorf("map %s: %w", path, err)
	}
	return nil
}

// unfinished finds what an upgrade left that did not come to its end.
func (o *Objects) unfinished() error {
	entries, err := os.ReadDir(o.path(mapsDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), oldSuffix)
		if !ok || o.replaced[name] {
			continue
		}
		path := o.path(mapsDir, e.Name())
		if o.maps[name] == nil {
			err = removePin(path) // of a map that is no more
		} else {
			err = o.takeOver(name, path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyRows copies the rows that to does not have. A value of another size is cut, or continued with zeros: structs grow at
// their end. Keys of another size, and kinds of maps without rows of that form, start empty.
func copyRows(to, from *ebpf.Map) error {
	if to.KeySize() != from.KeySize() || !hasRows(to.Type()) || !hasRows(from.Type()) {
		return nil
	}
	var key, value []byte
	rows := from.Iterate()
	for rows.Next(&key, &value) {
		resized := make([]byte, to.ValueSize())
		copy(resized, value)
		err := to.Update(key, resized, updateFlag(to.Type()))
		if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("copy row: %w", err)
		}
	}
	// An aborted iteration met changes of the programs at work. What it missed is copied, or noted anew, later.
	if err := rows.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("copy rows: %w", err)
	}
	return nil
}

func hasRows(t ebpf.MapType) bool {
	switch t {
	case ebpf.Hash, ebpf.LRUHash, ebpf.Array, ebpf.LPMTrie:
		return true
	}
	return false
}

// updateFlag keeps rows that are there already; the rows of an array always are.
func updateFlag(t ebpf.MapType) ebpf.MapUpdateFlags {
	if t == ebpf.Array || t == ebpf.LPMTrie {
		return ebpf.UpdateAny
	}
	return ebpf.UpdateNoExist
}

func removePin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pin %s: %w", filepath.Base(path), err)
	}
	return nil
}
