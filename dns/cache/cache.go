package cache

import (
	"container/list"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/skep-io/skep/dns/wire"
)

const (
	// staleTTL is the TTL of a stale answer in seconds, as RFC 8767 section 4 recommends.
	staleTTL = 30
	// shards spread the readers over locks.
	shards = 16
	// prefetchHits is how often an answer must have served to be asked for again before its end.
	prefetchHits = 3
	// prefetchShare is the last part of an answer's life in which that happens: a tenth.
	prefetchShare = 10
)

// Options bound what is kept. The zero value keeps nothing.
type Options struct {
	// Size is the number of answers kept.
	Size int
	// MaxTTL and MaxNegativeTTL bound how long an answer is fresh.
	MaxTTL, MaxNegativeTTL time.Duration
	// Stale is how long after its end an answer may still serve when no upstream does.
	Stale time.Duration
}

// Cache is a bounded store of answers, the least recently used going first. It is safe for concurrent use.
type Cache struct {
	opts    atomic.Pointer[Options]
	seed    maphash.Seed
	shards  [shards]shard
	now     func() int64
	evicted atomic.Uint64
}

type shard struct {
	mu      sync.Mutex
	entries map[string]*list.Element
	recent  list.List // of *item, the most recent first
}

type item struct {
	key   string
	entry *Entry
}

// New returns an empty cache.
func New(opts Options) *Cache {
	began := time.Now()
	c := &Cache{seed: maphash.MakeSeed(), now: func() int64 { return int64(time.Since(began)) + 1 }}
	c.opts.Store(&opts)
	for i := range c.shards {
		c.shards[i].entries = map[string]*list.Element{}
		c.shards[i].recent.Init()
	}
	return c
}

// SetOptions changes the bounds for answers to come.
func (c *Cache) SetOptions(opts Options) { c.opts.Store(&opts) }

// Key is what makes two questions the same one: name, type, DO and CD. It is appended to b.
func Key(b []byte, q *wire.Query) []byte {
	flags := byte(0)
	if q.DO {
		flags |= 1
	}
	if q.CD() {
		flags |= 2
	}
	return append(append(b, q.Name()...), byte(q.Type>>8), byte(q.Type), flags)
}

// Found is what Get has.
type Found struct {
	Entry *Entry
	Age   time.Duration
	// Stale tells that the entry's time is over; Prefetch that it soon is and the entry is in demand.
	Stale, Prefetch bool
}

// Get finds an answer; a stale one too.
func (c *Cache) Get(key []byte) (Found, bool) {
	s := &c.shards[maphash.Bytes(c.seed, key)%shards]
	s.mu.Lock()
	el := s.entries[string(key)]
	if el == nil {
		s.mu.Unlock()
		return Found{}, false
	}
	s.recent.MoveToFront(el)
	e := el.Value.(*item).entry
	s.mu.Unlock()
	now := c.now()
	if now > e.expiry+int64(c.opts.Load().Stale) {
		return Found{}, false
	}
	hits := e.hits.Add(1)
	return Found{Entry: e, Age: time.Duration(now - e.stored), Stale: now >= e.expiry,
		Prefetch: hits >= prefetchHits && e.expiry-now < (e.expiry-e.stored)/prefetchShare}, true
}

// Put makes an entry of an upstream's answer, and keeps it if it may be kept: a whole one, positive or negative with an SOA.
// Returns nil for one that is malformed.
func (c *Cache) Put(key []byte, m *dns.Msg) *Entry {
	ttl, negative := lifetime(m)
	e := newEntry(m)
	opts := c.opts.Load()
	limit := opts.MaxTTL
	if negative {
		limit = opts.MaxNegativeTTL
	}
	if ttl = min(ttl, limit); e == nil || ttl <= 0 || opts.Size == 0 {
		return e
	}
	e.stored = c.now()
	e.expiry = e.stored + int64(ttl)
	c.keep(string(key), e, opts.Size)
	return e
}

func (c *Cache) keep(key string, e *Entry, size int) {
	s := &c.shards[maphash.String(c.seed, key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if el := s.entries[key]; el != nil {
		el.Value = &item{key: key, entry: e}
		s.recent.MoveToFront(el)
		return
	}
	s.entries[key] = s.recent.PushFront(&item{key: key, entry: e})
	for s.recent.Len() > max(size/shards, 1) {
		oldest := s.recent.Back()
		delete(s.entries, oldest.Value.(*item).key)
		s.recent.Remove(oldest)
		c.evicted.Add(1)
	}
}

// Len is the number of answers kept; Evicted of those that went for others.
func (c *Cache) Len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += s.recent.Len()
		s.mu.Unlock()
	}
	return n
}

// Evicted is how many answers went to make room.
func (c *Cache) Evicted() uint64 { return c.evicted.Load() }
