package observe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
)

// ErrWatched is returned by [OpenWatch] while somebody else watches: events have one reader.
var ErrWatched = errors.New("somebody else watches this node's flows")

const (
	// watchLease is how long programs make events for a watcher that is not heard of.
	watchLease = 3 * time.Second
	// watchRenewal is how often a watcher is heard of.
	watchRenewal = time.Second
)

// Watch makes the programs tell of flows and reads what they tell, until Close. Should the process die, the programs stop within
// three seconds. Read is for one goroutine.
type Watch struct {
	row    *ebpf.Map
	reader *ringbuf.Reader
	lock   *os.File // nil: the maps are pinned nowhere
	every  uint32
	begin  uint64 // on the kernel's clock: earlier events are from another watch
	before uint64 // lost events of earlier watches
	stop   chan struct{}
	done   sync.WaitGroup
	// owned are the maps to close at the end.
	owned []*ebpf.Map
}

// OpenWatch watches with the maps that are pinned in dir. Of the packets of known flows one in so many makes an event, on each
// processor; 0: none.
func OpenWatch(dir string, every uint32) (*Watch, error) {
	lock, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrWatched
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	var maps []*ebpf.Map
	fail := func(err error) (*Watch, error) {
		for _, m := range maps {
			m.Close()
		}
		lock.Close()
		return nil, err
	}
	for _, name := range []string{abi.MapEvents, abi.MapWatch} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if err != nil {
			return fail(fmt.Errorf("map %s: %w", name, err))
		}
		maps = append(maps, m)
	}
	w, err := NewWatch(maps[0], maps[1], every)
	if err != nil {
		return fail(err)
	}
	w.lock, w.owned = lock, maps
	return w, nil
}

// NewWatch watches with maps that are open already, and that nobody else watches with.
func NewWatch(events, row *ebpf.Map, every uint32) (*Watch, error) {
	reader, err := ringbuf.NewReader(events)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	w := &Watch{row: row, reader: reader, every: every, stop: make(chan struct{})}
	if w.begin, err = now(); err == nil {
		w.before, err = w.lost()
	}
	if err == nil {
		err = w.renew()
	}
	if err != nil {
		reader.Close()
		return nil, err
	}
	w.done.Go(w.keep)
	return w, nil
}

// now is the kernel's clock of events.
func now() (uint64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return uint64(t.Nano()), nil
}

// renew makes the programs go on for a lease.
func (w *Watch) renew() error {
	t, err := now()
	if err != nil {
		return err
	}
	lost, err := w.lost()
	if err != nil {
		return err
	}
	return w.row.Put(uint32(0), abi.Watch{Until: t + uint64(watchLease), On: 1, Every: w.every, Lost: lost})
}

// keep renews until Close. A renewal that fails ends the events three seconds later, and the next one brings them back.
func (w *Watch) keep() {
	ticker := time.NewTicker(watchRenewal)
	defer ticker.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-ticker.C:
			_ = w.renew()
		}
	}
}

func (w *Watch) lost() (uint64, error) {
	var row abi.Watch
	err := w.row.Lookup(uint32(0), &row)
	return row.Lost, err
}

// Lost returns how many events found no room since the watch began.
func (w *Watch) Lost() (uint64, error) {
	lost, err := w.lost()
	return lost - w.before, err
}

// Read waits for the next event. It returns [os.ErrClosed] after Close and [os.ErrDeadlineExceeded] at the deadline.
func (w *Watch) Read() (abi.Event, error) {
	for {
		var e abi.Event
		record, err := w.reader.Read()
		if err != nil {
			return e, err
		}
		if len(record.RawSample) < binary.Size(e) {
			return e, fmt.Errorf("event of %d bytes, want %d: the programs are of another version", len(record.RawSample), binary.Size(e))
		}
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &e); err != nil {
			return e, err
		}
		if e.Time >= w.begin {
			return e, nil
		}
	}
}

// SetDeadline makes Read return at t; the zero time lifts it.
func (w *Watch) SetDeadline(t time.Time) { w.reader.SetDeadline(t) }

// Close makes the programs stop telling.
func (w *Watch) Close() error {
	close(w.stop)
	w.done.Wait()
	lost, err := w.lost()
	if err == nil {
		err = w.row.Put(uint32(0), abi.Watch{Lost: lost})
	}
	err = errors.Join(err, w.reader.Close())
	for _, m := range w.owned {
		err = errors.Join(err, m.Close())
	}
	if w.lock != nil {
		err = errors.Join(err, w.lock.Close())
	}
	return err
}
