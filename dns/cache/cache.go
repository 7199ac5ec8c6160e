// Package cache keeps answers of upstream servers for as long as their TTLs allow (RFC 2308 for negative ones), and beyond
// that for times when no upstream answers (RFC 8767).
package cache

import (
	"time"

	"github.com/miekg/dns"
	"k8s.io/utils/lru"
)

const (
	// maxTTL bounds how long an answer is fresh: cluster users expect changes outside to arrive soon.
	maxTTL = 30 * time.Second
	// StaleFor is how long after its end an answer may still serve when no upstream does.
	StaleFor = time.Hour
	// staleTTL is the TTL of a stale answer, as RFC 8767 section 4 recommends.
	staleTTL = 30
)

// Cache is a bounded store of answers, the least recently used going first. It is safe for concurrent use.
type Cache struct {
	entries *lru.Cache
	now     func() time.Time
}

// New returns a cache of at most size answers.
func New(size int) *Cache { return &Cache{entries: lru.New(size), now: time.Now} }

// Key is what makes two questions the same one.
type Key struct {
	// Name is lower case.
	Name          string
	Type          uint16
	DNSSEC, NoChk bool
}

type entry struct {
	answer         *dns.Msg
	stored, expiry time.Time
}

// Get returns a copy of the answer with its TTLs reduced by its age. Without stale only a fresh answer counts; with it one
// that expired less than StaleFor ago does too.
func (c *Cache) Get(k Key, stale bool) *dns.Msg {
	v, ok := c.entries.Get(k)
	if !ok {
		return nil
	}
	e, now := v.(entry), c.now()
	fresh := now.Before(e.expiry)
	if !fresh && (!stale || now.After(e.expiry.Add(StaleFor))) {
		return nil
	}
	m, age := e.answer.Copy(), uint32(now.Sub(e.stored)/time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			h := rr.Header()
			switch {
			case h.Rrtype == dns.TypeOPT:
			case !fresh:
				h.Ttl = staleTTL
			default:
				h.Ttl -= min(age, h.Ttl)
			}
		}
	}
	return m
}

// Put stores answer if it may be kept at all: a whole one, positive or negative with an SOA.
func (c *Cache) Put(k Key, answer *dns.Msg) {
	ttl := lifetime(answer)
	if ttl <= 0 {
		return
	}
	now := c.now()
	c.entries.Add(k, entry{answer: answer.Copy(), stored: now, expiry: now.Add(min(ttl, maxTTL))})
}

// lifetime is the least TTL of a positive answer, the SOA's for a negative one (RFC 2308 section 5), 0 for what is not kept.
func lifetime(m *dns.Msg) time.Duration {
	if m.Truncated || (m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError) {
		return 0
	}
	if len(m.Answer) == 0 || m.Rcode == dns.RcodeNameError {
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				return time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second
			}
		}
		return 0
	}
	least := m.Answer[0].Header().Ttl
	for _, rr := range m.Answer {
		least = min(least, rr.Header().Ttl)
	}
	return time.Duration(least) * time.Second
}
