// Package conntrack keeps the flow table of the BPF programs small: it sweeps
// the table at long intervals and removes flows that have been silent for too
// long. The programs note in each flow the generation of its last packet;
// a sweep raises the generation, which is all the clock there is. Without a
// collector nothing times out, so a node whose agent is away keeps its flows.
package conntrack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
)

// Timeouts are how long a flow may be silent. A flow lives until the first
// sweep after that.
type Timeouts struct {
	Established time.Duration // TCP, both ends were heard
	Opening     time.Duration // TCP, only one end was heard
	Closed      time.Duration // TCP, finished or reset
	Datagram    time.Duration // UDP, both ends were heard
	Request     time.Duration // UDP or ICMP, only one end was heard
}

// DefaultTimeouts are those of Linux's own connection tracking, but for an
// established TCP flow, which is kept for as long as a keepalive takes twice.
func DefaultTimeouts() Timeouts {
	return Timeouts{
		Established: 4 * time.Hour,
		Opening:     60 * time.Second,
		Closed:      10 * time.Second,
		Datagram:    120 * time.Second,
		Request:     30 * time.Second,
	}
}

const (
	// interval between sweeps of a table that has room: a sweep of an empty
	// table is two system calls.
	interval = 15 * time.Second
	// busyInterval follows a sweep that found more than busy flows.
	busyInterval = 3 * time.Second
	busy         = 65536
	batch        = 4096
)

// Collector removes flows. One goroutine runs it.
type Collector struct {
	table    *ebpf.Map
	tick     func() (uint32, error)
	timeouts Timeouts
	logger   *slog.Logger
	now      func() time.Time

	// begun is when each generation began, oldest first; it belongs to the
	// generations first, first+1, … Older ones count as begun with first.
	begun []time.Time
	first uint32
}

// New makes a collector of the flow table, which stays the caller's. tick
// begins a new generation and returns it: load.Objects.Tick.
func New(table *ebpf.Map, tick func() (uint32, error), timeouts Timeouts, logger *slog.Logger) *Collector {
	return &Collector{table: table, tick: tick, timeouts: timeouts, logger: logger, now: time.Now}
}

// Run sweeps until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := interval
		flows, removed, err := c.Sweep()
		if err != nil {
			c.logger.Error("sweep of the flow table", "err", err)
		}
		if flows-removed > busy || removed > busy {
			next = busyInterval
		}
		timer.Reset(next)
	}
}

// Sweep goes through the table once and tells how many flows it found and
// how many of them it removed.
func (c *Collector) Sweep() (flows, removed int, err error) {
	generation, err := c.begin()
	if err != nil {
		return 0, 0, err
	}
	var (
		cursor ebpf.MapBatchCursor
		keys   = make([]abi.ConntrackKey, batch)
		values = make([]abi.Conntrack, batch)
		dead   []abi.ConntrackKey
	)
	for {
		n, err := c.table.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return flows, removed, fmt.Errorf("map %s: %w", abi.MapConntrack, err)
		}
		flows += n
		for i := range n {
			if c.expired(keys[i], values[i], generation) {
				dead = append(dead, keys[i])
			}
		}
		if err != nil {
			break
		}
	}
	for _, key := range dead {
		if err := c.table.Delete(key); err == nil {
			removed++
		} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return flows, removed, fmt.Errorf("map %s: %w", abi.MapConntrack, err)
		}
	}
	return flows, removed, nil
}

// expired tells whether a flow may go. Both sides of a translated flow give
// the same answer, so that neither is left alone.
func (c *Collector) expired(key abi.ConntrackKey, ct abi.Conntrack, generation uint32) bool {
	seen := c.age(ct.LastSeen, generation)
	if seen <= min(c.timeouts.Closed, c.timeouts.Request) {
		return false
	}
	if ct.Translated() {
		var other abi.Conntrack
		if err := c.table.Lookup(ct.Other(key), &other); err != nil {
			return true
		}
		seen = min(seen, c.age(other.LastSeen, generation))
		ct.Flags |= other.Flags
	}
	return seen > c.limit(key.Proto, ct.Flags)
}

// limit is how long a flow with these flags may be silent.
func (c *Collector) limit(proto uint8, flags abi.ConntrackFlag) time.Duration {
	replied := flags&abi.CTReplied != 0
	if proto != unix.IPPROTO_TCP {
		if replied {
			return c.timeouts.Datagram
		}
		return c.timeouts.Request
	}
	const finished = abi.CTFinFrom | abi.CTFinTo
	if flags&abi.CTRst != 0 || flags&finished == finished {
		return c.timeouts.Closed
	}
	// A flow whose opening was not seen is older than the table.
	if replied || flags&abi.CTSyn == 0 {
		return c.timeouts.Established
	}
	return c.timeouts.Opening
}

// begin begins a generation and returns it.
func (c *Collector) begin() (uint32, error) {
	generation, err := c.tick()
	if err != nil {
		return 0, err
	}
	now := c.now()
	if c.begun == nil {
		c.first, c.begun = generation-1, []time.Time{now}
	}
	c.begun = append(c.begun, now)
	c.forget()
	return generation, nil
}

// forget drops the generations that are older than any timeout.
func (c *Collector) forget() {
	horizon := c.now().Add(-2 * c.timeouts.Established)
	for len(c.begun) > 2 && c.begun[1].Before(horizon) {
		c.begun, c.first = c.begun[1:], c.first+1
	}
}

// age is how long ago a generation ended at least: its flows have been
// silent since.
func (c *Collector) age(generation, current uint32) time.Duration {
	if generation == current {
		return 0
	}
	i := int(int32(generation - c.first))
	if i < 0 {
		i = 0 // before this process: as old as the process
	}
	if i+1 >= len(c.begun) {
		return 0
	}
	return c.now().Sub(c.begun[i+1])
}
