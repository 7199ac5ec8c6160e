package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/skep-io/skep/dns/cache"
	"github.com/skep-io/skep/dns/forward"
	"github.com/skep-io/skep/dns/wire"
)

const (
	// staleAfter is how long a client waits for an upstream server when there is a stale answer to give (RFC 8767 section 5
	// has 1.8 s, but resolvers of today ask again after less).
	staleAfter = 400 * time.Millisecond
	// failureTime is how long a failure is remembered (RFC 9520 3.2), and maxFailures how many are.
	failureTime = time.Second
	maxFailures = 4096
)

// flights are the look-ups that upstream servers work on: one for a question, however many wait for it.
type flights struct {
	mu     sync.Mutex
	calls  map[string]*flight
	failed map[string]time.Time
}

// flight is one look-up; entry, why and err are set before done is closed.
type flight struct {
	done  chan struct{}
	entry *cache.Entry
	why   string
	err   error
}

// errRecent is returned without asking for a name whose look-up has just failed.
var errRecent = errors.New("upstream servers have just failed to answer for the name")

// fly starts the look-up, or joins the one that is on its way.
func (s *Server) fly(set *settings, q *wire.Query, key []byte) *flight {
	s.flights.mu.Lock()
	defer s.flights.mu.Unlock()
	if f := s.flights.calls[string(key)]; f != nil {
		return f
	}
	f := &flight{done: make(chan struct{})}
	if since, ok := s.flights.failed[string(key)]; ok {
		if time.Since(since) < failureTime {
			f.err = errRecent
			close(f.done)
			return f
		}
		delete(s.flights.failed, string(key))
	}
	id, own := string(key), *q
	s.flights.calls[id] = f
	go func() {
		f.entry, f.why, f.err = s.fetch(set, &own, []byte(id))
		s.flights.mu.Lock()
		delete(s.flights.calls, id)
		if f.err != nil && !errors.Is(f.err, forward.ErrBusy) {
			if len(s.flights.failed) >= maxFailures {
				clear(s.flights.failed)
			}
			s.flights.failed[id] = time.Now()
		}
		s.flights.mu.Unlock()
		close(f.done)
	}()
	return f
}

// prefetch asks again for what is in demand before its time is over.
func (s *Server) prefetch(q *wire.Query) {
	s.metrics.prefetches.Add(1)
	s.fly(s.settings.Load(), q, cache.Key(nil, q))
}

// fetch asks the upstream servers and keeps the answer.
func (s *Server) fetch(set *settings, q *wire.Query, key []byte) (*cache.Entry, string, error) {
	ctx, cancel := context.WithTimeout(s.ctx, forward.Budget)
	defer cancel()
	m, from, err := s.exchange(ctx, set, q, q.Type)
	if err == nil && q.Type == wire.TypeAAAA && set.nat64.IsValid() && m.Rcode == dns.RcodeSuccess && !hasType(m.Answer, wire.TypeAAAA) {
		if four, _, err := s.exchange(ctx, set, q, wire.TypeA); err == nil {
			synthesize(m, four, set.nat64)
		}
	}
	if err != nil {
		return nil, "", err
	}
	entry := s.cache.Put(key, m)
	if entry == nil {
		return nil, "", fmt.Errorf("ask %s: the answer is malformed", from)
	}
	return entry, "upstream server " + from, nil
}

func (s *Server) exchange(ctx context.Context, set *settings, q *wire.Query, qtype uint16) (*dns.Msg, string, error) {
	query := new(dns.Msg).SetQuestion(wire.NameString(q.Name()), qtype)
	query.CheckingDisabled, query.AuthenticatedData = q.CD(), true
	query.SetEdns0(wire.MaxUDP, q.DO)
	m, from, err := set.group(q).Exchange(ctx, query)
	if err != nil {
		return nil, "", err
	}
	if len(m.Question) != 1 || m.Question[0].Qtype != qtype || dns.CanonicalName(m.Question[0].Name) != dns.CanonicalName(query.Question[0].Name) {
		return nil, "", fmt.Errorf("ask %s: the answer is to another question", from)
	}
	m.Question = query.Question
	return m, from, nil
}

func hasType(rrs []dns.RR, rrtype uint16) bool {
	for _, rr := range rrs {
		if rr.Header().Rrtype == rrtype {
			return true
		}
	}
	return false
}

// synthesize turns the A records into AAAA records below the prefix (RFC 6147 5.1.7).
func synthesize(m, four *dns.Msg, prefix netip.Prefix) {
	if !hasType(four.Answer, wire.TypeA) {
		return
	}
	m.Answer, m.Ns, m.AuthenticatedData = nil, nil, false
	for _, rr := range four.Answer {
		a, ok := rr.(*dns.A)
		if !ok {
			m.Answer = append(m.Answer, rr)
			continue
		}
		v6 := prefix.Addr().As16()
		copy(v6[12:], a.A.To4())
		h := a.Hdr
		h.Rrtype = dns.TypeAAAA
		m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: v6[:]})
	}
}
