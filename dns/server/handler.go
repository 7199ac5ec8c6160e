package server

import (
	"context"
	"net"
	"strings"

	"github.com/miekg/dns"

	"github.com/skep-io/skep/dns/cache"
	"github.com/skep-io/skep/dns/cluster"
)

const (
	// maxUDP is the largest answer over UDP, so that none is ever fragmented (DNS flag day 2020).
	maxUDP = 1232
	// maxChase bounds the names that one alias may lead through inside the zone.
	maxChase = 8
)

// Sources of an answer, as the metrics name them.
const (
	fromCluster = "cluster"
	fromCache   = "cache"
	fromForward = "forward"
	fromStale   = "stale"
	fromNowhere = "error"
)

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	answer, source := s.answer(context.Background(), query)
	s.answers.WithLabelValues(source, dns.RcodeToString[answer.Rcode]).Inc()
	fit(answer, query, w.RemoteAddr())
	_ = w.WriteMsg(answer) // the client is gone, or asks again
}

// fit adds EDNS0 where the query had it, and cuts the answer to what the client can take.
func fit(answer, query *dns.Msg, client net.Addr) {
	size := dns.MinMsgSize
	if opt := query.IsEdns0(); opt != nil {
		size = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDP)
		answer.Extra = withoutOPT(answer.Extra)
		answer.SetEdns0(maxUDP, opt.Do())
	}
	if client.Network() == "tcp" {
		size = dns.MaxMsgSize
	}
	answer.Truncate(size) // also compresses where that is needed
	answer.Compress = true
}

func withoutOPT(extra []dns.RR) []dns.RR {
	kept := extra[:0]
	for _, rr := range extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	return kept
}

// answer makes the response to query, and tells where it came from.
func (s *Server) answer(ctx context.Context, query *dns.Msg) (*dns.Msg, string) {
	m := new(dns.Msg).SetReply(query)
	switch {
	case query.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
		return m, fromNowhere
	case len(query.Question) != 1:
		m.Rcode = dns.RcodeFormatError
		return m, fromNowhere
	}
	q := query.Question[0]
	if opt := query.IsEdns0(); opt != nil && opt.Version() != 0 {
		m.Rcode = dns.RcodeBadVers
		return m, fromNowhere
	}
	if q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		m.Rcode = dns.RcodeRefused
		return m, fromNowhere
	}
	if result, ours := s.cfg.Zone.Resolve(q); ours {
		s.authoritative(ctx, m, q, result)
		return m, fromCluster
	}
	return s.recursive(ctx, query)
}

// authoritative fills m from the zone's result, following an alias where the client wants its addresses.
func (s *Server) authoritative(ctx context.Context, m *dns.Msg, q dns.Question, r cluster.Result) {
	m.Authoritative = true
	m.Rcode, m.Answer, m.Extra = r.Rcode, r.Answer, r.Extra
	if r.Negative() && r.Rcode != dns.RcodeServerFailure {
		origin := s.cfg.Zone.Origin()
		if strings.HasSuffix(strings.ToLower(q.Name), "."+origin) {
			origin = q.Name[len(q.Name)-len(origin):]
		}
		m.Ns = []dns.RR{s.cfg.Zone.SOA(origin)}
	}
	for range maxChase {
		if r.Alias == "" {
			return
		}
		next := dns.Question{Name: r.Alias, Qtype: q.Qtype, Qclass: q.Qclass}
		var ours bool
		if r, ours = s.cfg.Zone.Resolve(next); !ours {
			outside, _ := s.recursive(ctx, new(dns.Msg).SetQuestion(next.Name, next.Qtype))
			// A failed chase leaves the alias alone, which is true in any case.
			m.Answer = append(m.Answer, outside.Answer...)
			return
		}
		m.Answer = append(m.Answer, r.Answer...)
	}
}

// recursive answers from the cache or an upstream; when none answers, from what the cache kept.
func (s *Server) recursive(ctx context.Context, query *dns.Msg) (*dns.Msg, string) {
	q := query.Question[0]
	key := cache.Key{Name: strings.ToLower(q.Name), Type: q.Qtype, NoChk: query.CheckingDisabled}
	if opt := query.IsEdns0(); opt != nil {
		key.DNSSEC = opt.Do()
	}
	if m := s.cache.Get(key, false); m != nil {
		return respelled(m, query), fromCache
	}
	m, err := s.forward.Exchange(ctx, query)
	if err == nil {
		s.cache.Put(key, m)
		return respelled(m, query), fromForward
	}
	if m := s.cache.Get(key, true); m != nil {
		return respelled(m, query), fromStale
	}
	s.cfg.Logger.Debug("look-up outside the cluster failed", "name", q.Name, "error", err)
	m = new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)
	m.RecursionAvailable = true
	return m, fromNowhere
}

// respelled makes m the reply to query: its id, and its spelling of the name in the owners.
func respelled(m, query *dns.Msg) *dns.Msg {
	m.Id, m.Question, m.Authoritative = query.Id, query.Question, false
	name := query.Question[0].Name
	for _, rr := range m.Answer {
		if h := rr.Header(); strings.EqualFold(h.Name, name) {
			h.Name = name
		}
	}
	return m
}
