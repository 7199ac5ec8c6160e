package reconcile

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// SweepPeriod is the step of the flow table's clock: flows note its number at their last packet.
const SweepPeriod = 2 * time.Second

const (
	// calmSweeps is how many steps pass between two sweeps of a table with room; with more than busyFlows in it each step
	// sweeps, lest short connections fill it.
	calmSweeps = 5
	busyFlows  = 1 << 14
)

// Flows removes what is over from the flow table: flows that are idle for too long, and flows of addresses that are gone.
type Flows struct {
	maps   *bpfmap.Maps
	logger *slog.Logger
	wake   chan struct{}

	mu        sync.Mutex
	forgotten forgotten
	live      int
	traffic   map[uint32]abi.Traffic
}

// forgotten is whose flows are to go at once.
type forgotten struct {
	// addresses lose all their flows; backends lose the translated UDP flows that lead to them.
	addresses map[netip.Addr]struct{}
	backends  map[netip.AddrPort]struct{}
}

func newForgotten() forgotten {
	return forgotten{addresses: map[netip.Addr]struct{}{}, backends: map[netip.AddrPort]struct{}{}}
}

// has says whether the flow is one of theirs.
func (f forgotten) has(flow bpfmap.Flow) bool {
	if flow.Touches(f.addresses) {
		return true
	}
	if len(f.backends) == 0 || desired.Protocol(flow.Key.Proto) != desired.UDP {
		return false
	}
	backend, ok := flow.Backend()
	if !ok {
		return false
	}
	_, gone := f.backends[backend]
	return gone
}

// NewFlows returns the collector of the flow table. Run does its work.
func NewFlows(m *bpfmap.Maps, logger *slog.Logger) *Flows {
	return &Flows{maps: m, logger: logger, wake: make(chan struct{}, 1), forgotten: newForgotten()}
}

// Forget removes all flows of an address, soon. Many addresses at a time cost no more than one. Safe for concurrent use.
func (f *Flows) Forget(a netip.Addr) {
	f.mu.Lock()
	f.forgotten.addresses[a] = struct{}{}
	f.mu.Unlock()
	f.signal()
}

// ForgetBackend removes, soon, the UDP flows that were translated to a backend, so that the next datagram of each chooses
// another. Safe for concurrent use.
func (f *Flows) ForgetBackend(b netip.AddrPort) {
	f.mu.Lock()
	f.forgotten.backends[b] = struct{}{}
	f.mu.Unlock()
	f.signal()
}

func (f *Flows) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Live returns how many flows the last sweep left. Safe for concurrent use.
func (f *Flows) Live() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live
}

// Traffic returns what each service had carried at the last sweep, flows that are in the table included. It must not be changed. Safe
// for concurrent use.
func (f *Flows) Traffic() map[uint32]abi.Traffic {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.traffic
}

// Run sweeps the table until ctx ends: in each period, and at once when somebody's flows are to be forgotten.
func (f *Flows) Run(ctx context.Context) {
	ticker := time.NewTicker(SweepPeriod)
	defer ticker.Stop()
	for step := 1; ; step++ {
		woken := false
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
			woken = true
		case <-ticker.C:
		}
		if err := f.step(woken, step%calmSweeps == 0 || f.Live() > busyFlows); err != nil {
			f.logger.Warn("flow table was not swept", "error", err)
		}
	}
}

// step moves the clock, unless it was woken between two ticks, and sweeps if it is time to.
func (f *Flows) step(woken, due bool) error {
	if woken {
		generation, err := f.maps.Generation()
		if err != nil {
			return err
		}
		return f.sweep(generation)
	}
	generation, err := f.maps.RaiseGeneration()
	if err != nil || !due {
		return err
	}
	return f.sweep(generation)
}

// sweep removes all flows that are over at the generation. The table is read first and changed afterwards: deleting while
// walking makes the kernel's walk start over.
func (f *Flows) sweep(generation uint32) error {
	f.mu.Lock()
	gone := f.forgotten
	f.forgotten = newForgotten()
	f.mu.Unlock()

	// Before the walk: what ends in between is missed until the next one, and never counted twice.
	traffic, err := f.maps.Traffic()
	if err != nil {
		return err
	}
	live := 0
	var over []bpfmap.Flow
	err = f.maps.Flows(func(flow bpfmap.Flow) bool {
		if id, counted := flow.Traffic(); id != 0 {
			traffic[id] = traffic[id].Add(counted)
		}
		if gone.has(flow) || mayBeOver(flow, generation) {
			over = append(over, flow)
			return true
		}
		live++
		return true
	})
	if err != nil {
		return err
	}
	for _, flow := range over {
		kept, err := f.remove(flow, gone, generation)
		if err != nil {
			return err
		}
		if kept {
			live++
		}
	}
	f.mu.Lock()
	f.live, f.traffic = live, traffic
	f.mu.Unlock()
	return nil
}

// remove deletes a flow unless a packet came meanwhile. The two sides of a translated flow go together: one that is idle
// stays as long as its other side lives.
func (f *Flows) remove(flow bpfmap.Flow, gone forgotten, generation uint32) (kept bool, err error) {
	now, exists, err := f.maps.Flow(flow.Key)
	if err != nil || !exists {
		return false, err
	}
	var other bpfmap.Flow
	paired := false
	if now.Value.Translated() {
		if other, paired, err = f.maps.Flow(now.Value.Other(now.Key)); err != nil {
			return false, err
		}
	}
	if !gone.has(now) {
		whole := now
		if paired {
			whole = join(now, other)
		}
		if !expired(whole, generation) {
			return true, nil
		}
	}
	if paired {
		if err := f.delete(other); err != nil {
			return false, err
		}
	}
	return false, f.delete(now)
}

// delete removes an entry, and keeps what it has counted.
func (f *Flows) delete(flow bpfmap.Flow) error {
	if err := f.maps.CollectTraffic(flow); err != nil {
		return err
	}
	return f.maps.DeleteFlow(flow.Key)
}

// How long a flow may be silent. An established TCP connection outlives the two hours after which the kernel's keepalive asks.
const (
	idleTCP         = 6 * time.Hour
	idleTCPHalf     = 10 * time.Minute // one end has finished
	idleTCPOpening  = 60 * time.Second
	idleTCPClosed   = 4 * time.Second // late packets of its end have come
	idleUDP         = 30 * time.Second
	idleUDPAnswered = 180 * time.Second
	idleOther       = 30 * time.Second
)

// silence is how long a flow has seen no packet, rounded down to the step of the clock.
func silence(flow bpfmap.Flow, generation uint32) time.Duration {
	// A packet may have noted a number that was raised after ours was read.
	return time.Duration(max(0, int32(generation-flow.Value.LastSeen))) * SweepPeriod
}

// expired says whether the flow was silent for longer than flows in its state may be.
func expired(flow bpfmap.Flow, generation uint32) bool {
	return silence(flow, generation) > idleLimit(flow)
}

// mayBeOver says whether a look at the whole flow is worth while: one side of a translated flow knows only half of its state.
func mayBeOver(flow bpfmap.Flow, generation uint32) bool {
	return expired(flow, generation) || flow.Value.Translated() && silence(flow, generation) > idleTCPClosed
}

// join gives one side of a translated flow the state of both: each notes only the packets that it sees.
func join(flow, other bpfmap.Flow) bpfmap.Flow {
	const ofOneSide = abi.CTFromHigh | abi.CTRewriteSrc | abi.CTRewriteDst | abi.CTReplySide
	flow.Value.Flags |= other.Value.Flags &^ ofOneSide
	if int32(other.Value.LastSeen-flow.Value.LastSeen) > 0 {
		flow.Value.LastSeen = other.Value.LastSeen
	}
	return flow
}

func idleLimit(flow bpfmap.Flow) time.Duration {
	has := func(flag abi.ConntrackFlag) bool { return flow.Value.Flags&flag != 0 }
	switch desired.Protocol(flow.Key.Proto) {
	case desired.TCP:
		switch {
		case has(abi.CTRst), has(abi.CTFinFrom) && has(abi.CTFinTo):
			return idleTCPClosed
		case has(abi.CTFinFrom), has(abi.CTFinTo):
			return idleTCPHalf
		case !has(abi.CTReplied):
			return idleTCPOpening
		}
		return idleTCP
	case desired.UDP:
		if has(abi.CTReplied) {
			return idleUDPAnswered
		}
		return idleUDP
	}
	return idleOther
}
