package bpfmap

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
)

// table is one map: in the kernel, or in memory for tests.
type table[K comparable, V any] interface {
	// put writes a row, replacing the one that is there.
	put(K, V) error
	// putAll writes many rows. After an error any of them may be written.
	putAll([]K, []V) error
	// delete removes a row; a missing one is no error.
	delete(K) error
	// get returns a row and whether it is there.
	get(K) (V, bool, error)
	// each calls fn for every row until it returns false. Rows that change meanwhile may be seen or not, or twice.
	each(fn func(K, V) bool) error
}

// kernelTable is a map in the kernel.
type kernelTable[K comparable, V any] struct{ m *ebpf.Map }

func (t kernelTable[K, V]) put(k K, v V) error {
	if err := t.m.Put(&k, &v); err != nil {
		return fmt.Errorf("map %s: %w", t.name(), err)
	}
	return nil
}

func (t kernelTable[K, V]) putAll(keys []K, values []V) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := t.m.BatchUpdate(keys, values, nil)
	if errors.Is(err, ebpf.ErrNotSupported) { // tries before 5.13
		return t.putEach(keys, values)
	}
	if err != nil {
		return fmt.Errorf("map %s: %w", t.name(), err)
	}
	return nil
}

func (t kernelTable[K, V]) putEach(keys []K, values []V) error {
	for i := range keys {
		if err := t.m.Put(&keys[i], &values[i]); err != nil {
			return fmt.Errorf("map %s: %w", t.name(), err)
		}
	}
	return nil
}

func (t kernelTable[K, V]) delete(k K) error {
	if err := t.m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("map %s: %w", t.name(), err)
	}
	return nil
}

func (t kernelTable[K, V]) get(k K) (v V, ok bool, err error) {
	switch err := t.m.Lookup(&k, &v); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return v, false, nil
	case err != nil:
		return v, false, fmt.Errorf("map %s: %w", t.name(), err)
	}
	return v, true, nil
}

// batch is how many rows one system call reads. The kernel wants room for at least a whole hash bucket.
const batch = 4096

func (t kernelTable[K, V]) each(fn func(K, V) bool) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]K, batch), make([]V, batch)
	for {
		n, err := t.m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			if !fn(keys[i], values[i]) {
				return nil
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if errors.Is(err, ebpf.ErrNotSupported) { // tries before 5.13
			return t.eachAlone(fn)
		}
		if err != nil {
			return fmt.Errorf("map %s: read: %w", t.name(), err)
		}
	}
}

func (t kernelTable[K, V]) eachAlone(fn func(K, V) bool) error {
	var k K
	var v V
	rows := t.m.Iterate()
	for rows.Next(&k, &v) {
		if !fn(k, v) {
			return nil
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("map %s: read: %w", t.name(), err)
	}
	return nil
}

func (t kernelTable[K, V]) name() string { return t.m.String() }

// memoryTable behaves like a hash in the kernel.
type memoryTable[K comparable, V any] struct {
	name string
	// fail is asked before each write and returns the error to give, if any.
	fail func(op, table string) error

	mu   sync.Mutex
	rows map[K]V
}

func newMemoryTable[K comparable, V any](name string, fail func(op, table string) error) *memoryTable[K, V] {
	return &memoryTable[K, V]{name: name, fail: fail, rows: map[K]V{}}
}

func (t *memoryTable[K, V]) put(k K, v V) error {
	if err := t.fail("put", t.name); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows[k] = v
	return nil
}

func (t *memoryTable[K, V]) putAll(keys []K, values []V) error {
	for i := range keys {
		if err := t.put(keys[i], values[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t *memoryTable[K, V]) delete(k K) error {
	if err := t.fail("delete", t.name); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.rows, k)
	return nil
}

func (t *memoryTable[K, V]) get(k K) (V, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.rows[k]
	return v, ok, nil
}

func (t *memoryTable[K, V]) each(fn func(K, V) bool) error {
	t.mu.Lock()
	rows := make(map[K]V, len(t.rows))
	for k, v := range t.rows {
		rows[k] = v
	}
	t.mu.Unlock()
	for k, v := range rows {
		if !fn(k, v) {
			return nil
		}
	}
	return nil
}
