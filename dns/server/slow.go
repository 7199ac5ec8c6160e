package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/skep-io/skep/dns/cache"
	"github.com/skep-io/skep/dns/cluster"
	"github.com/skep-io/skep/dns/forward"
	"github.com/skep-io/skep/dns/wire"
)

// maxDepth bounds how often one question may lead to another: rewrites, aliases, search lists.
const maxDepth = 4

// resolution is a finished answer and where it comes from.
type resolution struct {
	msg  []byte
	from source
	zone zoneKind
	// why says it to people.
	why string
}

// slowAnswer answers a question that a worker left, and counts it.
func (s *Server) slowAnswer(ctx context.Context, p proto, pkt []byte, client netip.Addr, limit int) resolution {
	began := time.Now()
	var q wire.Query
	if q.Parse(pkt) != wire.Valid {
		return resolution{} // a worker has read it before
	}
	res := s.answerFor(ctx, &q, pkt, client, limit, 0)
	s.metrics.countSlow(p, &q, client, res, time.Since(began))
	return res
}

// answerFor answers the question of pkt, whose own look-up took depth others.
func (s *Server) answerFor(ctx context.Context, q *wire.Query, pkt []byte, client netip.Addr, limit, depth int) resolution {
	set := s.settings.Load()
	if depth > maxDepth {
		return s.failure(q, pkt, limit, wire.ServFail, "one name led to another too often")
	}
	if to, ok := set.rewritten(q); ok && depth == 0 {
		return s.rewrite(ctx, q, pkt, client, limit, to)
	}
	r := wire.NewReply(limit)
	r.Begin(q, pkt, limit)
	switch v, target := s.cfg.Zone.Answer(q, r, int(q.ID)); v {
	case cluster.Answered:
		if set.search && depth == 0 && r.Rcode == wire.NXDomain && s.searches(q, client) {
			if res, ok := s.search(ctx, q, pkt, client, limit); ok {
				return res
			}
		}
		return resolution{msg: r.Finish(q), from: fromCluster, zone: zoneCluster, why: "the cluster's zone"}
	case cluster.Alias:
		return s.chase(ctx, q, r, client, limit, target, depth)
	}
	if h, ok := set.hosts[string(q.Name())]; ok {
		h.write(q, r, set.ttl)
		return resolution{msg: r.Finish(q), from: fromHosts, why: "hosts of the configuration"}
	}
	if s.loops.Seen(wire.NameString(q.Name())) {
		r.Rcode = wire.NXDomain
		return resolution{msg: r.Finish(q), why: "a probe for loops"}
	}
	return s.recurse(ctx, set, q, pkt, r, limit)
}

// recurse answers from the cache or an upstream server.
func (s *Server) recurse(ctx context.Context, set *settings, q *wire.Query, pkt []byte, r *wire.Reply, limit int) resolution {
	f, from, why, err := s.find(ctx, set, q)
	if err != nil {
		s.cfg.Logger.Debug("look-up outside the cluster failed", "name", wire.NameString(q.Name()), "error", err)
		if errors.Is(err, forward.ErrBusy) {
			return s.failure(q, pkt, limit, wire.Refused, err.Error())
		}
		return s.failure(q, pkt, limit, wire.ServFail, err.Error())
	}
	writeEntry(q, r, f)
	return resolution{msg: r.Finish(q), from: from, why: why}
}

func (s *Server) failure(q *wire.Query, pkt []byte, limit, rcode int, why string) resolution {
	r := wire.NewReply(min(limit, wire.MaxUDP))
	r.Begin(q, pkt, limit)
	r.Rcode, r.Recursive = rcode, true
	return resolution{msg: r.Finish(q), why: why}
}

// refusal is the answer where too many questions wait.
func (s *Server) refusal(pkt []byte, limit int) []byte {
	var q wire.Query
	if q.Parse(pkt) != wire.Valid {
		return nil
	}
	s.metrics.shed.Add(1)
	return s.failure(&q, pkt, limit, wire.Refused, errFull.Error()).msg
}

// find returns the cache's entry, or an upstream's, which the cache then has; a stale one if no upstream answers in time.
func (s *Server) find(ctx context.Context, set *settings, q *wire.Query) (cache.Found, source, string, error) {
	key := cache.Key(make([]byte, 0, 300), q)
	found, ok := s.cache.Get(key)
	if ok && !found.Stale {
		return found, fromCache, fmt.Sprintf("the cache, %v old", found.Age.Round(time.Millisecond)), nil
	}
	f := s.fly(set, q, key)
	var patience <-chan time.Time
	if ok {
		timer := time.NewTimer(staleAfter)
		defer timer.Stop()
		patience = timer.C
	}
	select {
	case <-f.done:
		if f.err == nil {
			return cache.Found{Entry: f.entry}, fromForward, f.why, nil
		}
		if !ok {
			return cache.Found{}, 0, "", f.err
		}
	case <-patience:
	case <-ctx.Done():
		return cache.Found{}, 0, "", ctx.Err()
	}
	return found, fromStale, fmt.Sprintf("the cache, %v old, because no upstream server answers", found.Age.Round(time.Second)), nil
}

// ask resolves a name on behalf of another question and returns the message.
func (s *Server) ask(ctx context.Context, q *wire.Query, name []byte, client netip.Addr, depth int) (*dns.Msg, resolution, error) {
	pkt := make([]byte, 0, wire.HeaderLen+len(name)+4)
	pkt = append(pkt, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	pkt = append(pkt, name...)
	pkt = binary.BigEndian.AppendUint16(pkt, q.Type)
	pkt = binary.BigEndian.AppendUint16(pkt, q.Class)
	var next wire.Query
	if next.Parse(pkt) != wire.Valid {
		return nil, resolution{}, errors.New("the name cannot be asked for")
	}
	res := s.answerFor(ctx, &next, pkt, client, wire.MaxTCP, depth)
	m := new(dns.Msg)
	return m, res, m.Unpack(res.msg)
}

// finish packs a message that was put together as the answer to pkt.
func finish(q *wire.Query, pkt []byte, m *dns.Msg, limit int) []byte {
	query := new(dns.Msg)
	if err := query.Unpack(pkt); err != nil {
		return nil
	}
	m.Id, m.Response, m.Question = q.ID, true, query.Question
	m.RecursionDesired, m.CheckingDisabled = q.RD(), q.CD()
	if q.EDNS {
		m.SetEdns0(wire.MaxUDP, q.DO)
	}
	m.Compress = true
	m.Truncate(limit)
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// chase completes an answer that ends in an alias out of the zone.
func (s *Server) chase(ctx context.Context, q *wire.Query, r *wire.Reply, client netip.Addr, limit int, target []byte, depth int) resolution {
	pkt := r.Finish(q)
	m := new(dns.Msg)
	if err := m.Unpack(pkt); err != nil {
		return resolution{}
	}
	outside, res, err := s.ask(ctx, q, target, client, depth+1)
	switch {
	case err != nil:
		m.Rcode = wire.ServFail
	case outside.Rcode == dns.RcodeRefused:
		m.Rcode = wire.ServFail // the name is not refused, its target's server was busy
	default:
		m.Rcode, m.Ns = outside.Rcode, outside.Ns
		m.Answer = append(m.Answer, outside.Answer...)
	}
	m.Extra = nil
	return resolution{msg: finish(q, asQuery(pkt, q), m, limit), from: fromCluster, zone: zoneCluster,
		why: "an ExternalName of the cluster's zone; its target " + wire.NameString(target) + " from " + res.why}
}

// asQuery is the question of a packet alone.
func asQuery(pkt []byte, q *wire.Query) []byte {
	out := append([]byte(nil), pkt[:q.End]...)
	copy(out[2:], []byte{1, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return out
}

// rewrite asks for another name and answers as if it were this one.
func (s *Server) rewrite(ctx context.Context, q *wire.Query, pkt []byte, client netip.Addr, limit int, to []byte) resolution {
	m, res, err := s.ask(ctx, q, to, client, 1)
	if err != nil {
		return s.failure(q, pkt, limit, wire.ServFail, err.Error())
	}
	asked := m.Question[0].Name
	query := new(dns.Msg)
	if err := query.Unpack(pkt); err != nil {
		return resolution{}
	}
	for _, rr := range m.Answer {
		if rr.Header().Name == asked {
			rr.Header().Name = query.Question[0].Name
		}
	}
	m.Authoritative = false
	m.Extra = nil
	return resolution{msg: finish(q, pkt, m, limit), from: fromRewrite, why: "rewritten to " + wire.NameString(to) + ", from " + res.why}
}
