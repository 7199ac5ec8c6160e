// Package cache keeps answers of upstream servers, in the form in which they go out again, for as long as their TTLs allow
// (RFC 2308 for negative ones), and beyond that for times when no upstream answers (RFC 8767). A hit allocates nothing.
package cache

import (
	"encoding/binary"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/skep-io/skep/dns/wire"
)

// Entry is one answer of an upstream. All but hits is immutable.
type Entry struct {
	// Rcode is the answer's code; Authentic its AD bit.
	Rcode     int
	Authentic bool
	// records are the sections behind the question, whose names may point into it; ttls are where in them TTLs stand.
	records []byte
	ttls    []uint16
	counts  [3]uint16
	// stored and expiry are nanoseconds of the cache's clock; expiry is 0 for what must not be kept.
	stored, expiry int64
	hits           atomic.Uint32
}

// newEntry takes an upstream's answer to a question. Returns nil for one that is malformed.
func newEntry(m *dns.Msg) *Entry {
	if len(m.Question) != 1 {
		return nil
	}
	out := dns.Msg{Question: m.Question, Answer: m.Answer, Ns: m.Ns, Extra: withoutOPT(m.Extra), Compress: true}
	name := m.Question[0].Name
	for _, rr := range out.Answer {
		if h := rr.Header(); strings.EqualFold(h.Name, name) {
			h.Name = name // becomes a pointer, and so repeats each client's spelling
		}
	}
	msg, err := out.Pack()
	if err != nil {
		return nil
	}
	nameLen, ok := wire.SkipName(msg, wire.HeaderLen)
	if !ok {
		return nil
	}
	e := &Entry{Rcode: m.Rcode, Authentic: m.AuthenticatedData, records: msg[nameLen+4:],
		counts: [3]uint16{uint16(len(out.Answer)), uint16(len(out.Ns)), uint16(len(out.Extra))}}
	for at := 0; at < len(e.records); {
		body, ok := wire.SkipName(e.records, at)
		if !ok || body+10 > len(e.records) {
			return nil
		}
		e.ttls = append(e.ttls, uint16(body+4))
		at = body + 10 + int(binary.BigEndian.Uint16(e.records[body+8:]))
	}
	return e
}

func withoutOPT(extra []dns.RR) []dns.RR {
	var kept []dns.RR
	for _, rr := range extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	return kept
}

// Write adds the entry to an answer that holds nothing but its question, with TTLs reduced by the entry's age, or as RFC 8767
// has it where it is stale.
func (e *Entry) Write(r *wire.Reply, age time.Duration, stale bool) {
	r.Rcode, r.Recursive = e.Rcode, true
	at := r.Len()
	r.Raw(e.records, e.counts)
	seconds := uint32(age / time.Second)
	b := r.Bytes()
	for _, off := range e.ttls {
		if at+int(off)+4 > len(b) {
			return // cut off
		}
		ttl := binary.BigEndian.Uint32(b[at+int(off):])
		if stale {
			ttl = staleTTL
		} else {
			ttl -= min(ttl, seconds)
		}
		binary.BigEndian.PutUint32(b[at+int(off):], ttl)
	}
}

// lifetime is the least TTL of a positive answer, the SOA's for a negative one (RFC 2308 section 5), 0 for what is not kept.
func lifetime(m *dns.Msg) (ttl time.Duration, negative bool) {
	if m.Truncated || (m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError) {
		return 0, false
	}
	if len(m.Answer) == 0 || m.Rcode == dns.RcodeNameError {
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				return time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second, true
			}
		}
		return 0, true
	}
	least := m.Answer[0].Header().Ttl
	for _, rr := range m.Answer {
		least = min(least, rr.Header().Ttl)
	}
	return time.Duration(least) * time.Second, false
}
