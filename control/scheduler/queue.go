package scheduler

import (
	"cmp"
	"container/heap"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// A pod that found no place waits at least minBackoff before the next try, twice as long each time.
	minBackoff = 10 * time.Millisecond
	maxBackoff = 10 * time.Second
	// maxParked is when a pod is tried again although no event spoke for it: a safety net, as upstream has it.
	maxParked = 5 * time.Minute
)

// entry is a pod that waits for a node.
type entry struct {
	demand   *demand
	changed  *demand   // the pod's new form when it changed while it was being tried
	since    time.Time // of the pod's arrival: among equal priority the first come is first served
	attempts int
	// failed are the filters that rejected it at the last try, parked when that was.
	failed filterSet
	parked time.Time
	// ready is the earliest next try.
	ready time.Time
	index int // in the heap that it is in, -1 when in none
}

// pending holds the pods that wait: active ones by priority, those in backoff by time, and those that only an event can help. It is safe
// for concurrent use.
type pending struct {
	mu      sync.Mutex
	entries map[types.UID]*entry
	active  entryHeap
	backoff entryHeap
	// parkedIn are the entries in neither heap.
	parkedIn map[types.UID]*entry
	// inFlight is the entry being tried, moved what events since then may have changed: they must not be lost on it.
	inFlight *entry
	moved    filterSet
	wake     chan struct{}
}

func newPending() *pending {
	return &pending{
		entries: map[types.UID]*entry{},
		active: entryHeap{less: func(a, b *entry) int {
			return cmp.Or(cmp.Compare(b.demand.priority, a.demand.priority), a.since.Compare(b.since))
		}},
		backoff:  entryHeap{less: func(a, b *entry) int { return a.ready.Compare(b.ready) }},
		parkedIn: map[types.UID]*entry{},
		wake:     make(chan struct{}, 1),
	}
}

// add queues a pod, or takes its changed form; the change makes it worth a try now.
func (p *pending) add(d *demand, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[d.pod.UID]
	if e == nil {
		e = &entry{since: now, index: -1}
		p.entries[d.pod.UID] = e
	} else {
		p.unlink(e)
	}
	if e == p.inFlight {
		e.changed, p.moved = d, anyFilter
		return
	}
	e.demand = d
	heap.Push(&p.active, e)
	p.signal()
}

// remove forgets a pod.
func (p *pending) remove(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entries[uid]; e != nil {
		p.unlink(e)
		delete(p.entries, uid)
	}
}

// unlink takes the entry out of where it waits.
func (p *pending) unlink(e *entry) {
	if e.index >= 0 && e.index < len(p.active.entries) && p.active.entries[e.index] == e {
		heap.Remove(&p.active, e.index)
	} else if e.index >= 0 && e.index < len(p.backoff.entries) && p.backoff.entries[e.index] == e {
		heap.Remove(&p.backoff, e.index)
	}
	delete(p.parkedIn, e.demand.pod.UID)
}

// next returns the pod to try now, or nil and how long to wait for the wake channel (0: until it speaks). The caller gives the pod back
// with done or failed before it calls next again.
func (p *pending) next(now time.Time) (e *entry, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.backoff.entries) > 0 && !p.backoff.entries[0].ready.After(now) {
		heap.Push(&p.active, heap.Pop(&p.backoff))
	}
	if len(p.active.entries) > 0 {
		e = heap.Pop(&p.active).(*entry)
		e.attempts++
		p.inFlight, p.moved = e, 0
		return e, 0
	}
	if len(p.backoff.entries) > 0 {
		wait = p.backoff.entries[0].ready.Sub(now)
	}
	if len(p.parkedIn) > 0 && (wait == 0 || wait > maxParked) {
		wait = maxParked
	}
	return nil, wait
}

// done says that the pod got a node: it waits no more.
func (p *pending) done(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight = nil
	if p.entries[e.demand.pod.UID] == e {
		delete(p.entries, e.demand.pod.UID)
	}
}

// failed puts a pod that was tried back. by are the filters that rejected it; 0 means an error that time may heal.
func (p *pending) failed(e *entry, by filterSet, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight = nil
	if p.entries[e.demand.pod.UID] != e {
		return // deleted meanwhile
	}
	if e.changed != nil {
		e.demand, e.changed = e.changed, nil
	}
	e.failed, e.parked, e.ready = by, now, now.Add(delay(e.attempts))
	if by == 0 || by&p.moved != 0 {
		heap.Push(&p.backoff, e)
		p.signal()
		return
	}
	p.parkedIn[e.demand.pod.UID] = e
}

// retry queues a pod whose binding failed after done.
func (p *pending) retry(e *entry, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.entries[e.demand.pod.UID] != nil {
		return
	}
	p.entries[e.demand.pod.UID] = e
	e.ready = now.Add(delay(e.attempts))
	heap.Push(&p.backoff, e)
	p.signal()
}

// event moves the parked pods that one of the filters had rejected. It is called for every change that may let them in.
func (p *pending) event(changed filterSet, now time.Time) {
	if changed == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moved |= changed
	for _, e := range p.parkedIn {
		if e.failed&changed != 0 {
			p.release(e, now)
		}
	}
}

// flush releases what was parked for too long.
func (p *pending) flush(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.parkedIn {
		if now.Sub(e.parked) >= maxParked {
			p.release(e, now)
		}
	}
}

func (p *pending) release(e *entry, now time.Time) {
	delete(p.parkedIn, e.demand.pod.UID)
	if e.ready.After(now) {
		heap.Push(&p.backoff, e)
	} else {
		heap.Push(&p.active, e)
	}
	p.signal()
}

func (p *pending) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func delay(attempts int) time.Duration {
	d := minBackoff
	for range attempts - 1 {
		if d *= 2; d >= maxBackoff {
			return maxBackoff
		}
	}
	return d
}

// entryHeap is a container/heap of entries that know their place.
type entryHeap struct {
	entries []*entry
	less    func(a, b *entry) int
}

func (h *entryHeap) Len() int           { return len(h.entries) }
func (h *entryHeap) Less(i, j int) bool { return h.less(h.entries[i], h.entries[j]) < 0 }
func (h *entryHeap) Swap(i, j int) {
	h.entries[i], h.entries[j] = h.entries[j], h.entries[i]
	h.entries[i].index, h.entries[j].index = i, j
}

// Push appends an *entry.
func (h *entryHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(h.entries)
	h.entries = append(h.entries, e)
}

// Pop takes the last entry.
func (h *entryHeap) Pop() any {
	last := h.entries[len(h.entries)-1]
	h.entries[len(h.entries)-1] = nil
	h.entries = h.entries[:len(h.entries)-1]
	last.index = -1
	return last
}
