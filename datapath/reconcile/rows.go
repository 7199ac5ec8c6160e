package reconcile

import (
	"fmt"
	"maps"
)

// RowMap is the kernel's side of a table of independent rows. Put is idempotent; deleting what is not there returns nil.
type RowMap[K, V comparable] interface {
	Put(K, V) error
	Delete(K) error
	List() (map[K]V, error)
}

// Rows is the desired and the believed state of a table whose rows do not refer to each other. It is for one goroutine.
type Rows[K, V comparable] struct {
	kernel RowMap[K, V]
	want   map[K]V
	actual map[K]V
}

// RestoreRows reads what an earlier process left in the table.
func RestoreRows[K, V comparable](kernel RowMap[K, V]) (*Rows[K, V], error) {
	actual, err := kernel.List()
	if err != nil {
		return nil, err
	}
	return &Rows[K, V]{kernel: kernel, want: maps.Clone(actual), actual: actual}, nil
}

// Replace sets all wanted rows.
func (t *Rows[K, V]) Replace(want map[K]V) { t.want = want }

// Apply writes wanted rows and then deletes the others. It says whether it changed any; what failed stays for the next call.
func (t *Rows[K, V]) Apply() (changed bool, err error) {
	var errs failures
	for k, v := range t.want {
		if old, ok := t.actual[k]; ok && old == v {
			continue
		}
		if err := t.kernel.Put(k, v); err != nil {
			errs.add(fmt.Errorf("%v: %w", k, err))
			continue
		}
		t.actual[k] = v
		changed = true
	}
	for k := range t.actual {
		if _, wanted := t.want[k]; wanted {
			continue
		}
		if err := t.kernel.Delete(k); err != nil {
			errs.add(fmt.Errorf("%v: %w", k, err))
			continue
		}
		delete(t.actual, k)
		changed = true
	}
	return changed, errs.join()
}
