package server

import (
	"errors"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxSlow bounds the questions that wait for upstream servers; maxSlowClient those of one client, so that one that
	// floods leaves room for the others.
	maxSlow, maxSlowClient = 2048, 256
	// maxBuckets bounds the clients that a shard of the rate limit remembers.
	maxBuckets = 4096
)

var errFull = errors.New("too many questions wait for upstream servers")

// admission counts the questions that wait.
type admission struct {
	mu      sync.Mutex
	total   int
	clients map[netip.Addr]int
	running sync.WaitGroup
	closed  bool
}

// enter takes a place for the client; leave gives it back.
func (a *admission) enter(client netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.total >= maxSlow || a.clients[client] >= maxSlowClient {
		return false
	}
	a.total++
	a.clients[client]++
	a.running.Add(1)
	return true
}

func (a *admission) leave(client netip.Addr) {
	a.mu.Lock()
	a.total--
	if a.clients[client]--; a.clients[client] == 0 {
		delete(a.clients, client)
	}
	a.mu.Unlock()
	a.running.Done()
}

// drain lets nobody in any more and waits for those who are.
func (a *admission) drain() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.running.Wait()
}

// limiter is a token bucket for each client address.
type limiter struct {
	perSecond, burst int64
	seed             maphash.Seed
	shards           [16]struct {
		mu      sync.Mutex
		buckets map[netip.Addr]bucket
	}
}

// bucket holds the time, in ns, until which the client's tokens are spent.
type bucket struct{ spent int64 }

func newLimiter(perSecond, burst uint32) *limiter {
	if burst == 0 {
		burst = perSecond
	}
	l := &limiter{perSecond: int64(perSecond), burst: int64(burst), seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].buckets = map[netip.Addr]bucket{}
	}
	return l
}

// allow takes a token of the client at a time in ns.
func (l *limiter) allow(client netip.Addr, now int64) bool {
	s := &l.shards[maphash.Comparable(l.seed, client)%uint64(len(l.shards))]
	cost := int64(time.Second) / l.perSecond
	s.mu.Lock()
	defer s.mu.Unlock()
	spent := max(s.buckets[client].spent, now-cost*l.burst)
	if spent+cost > now {
		return false
	}
	if len(s.buckets) >= maxBuckets {
		clear(s.buckets) // those who flood are back at once, with one burst
	}
	s.buckets[client] = bucket{spent + cost}
	return true
}
