package server

import (
	"log/slog"
	"net/netip"

	"github.com/skep-io/skep/dns/cache"
	"github.com/skep-io/skep/dns/cluster"
	"github.com/skep-io/skep/dns/wire"
)

// source is where an answer comes from, as the metrics name it: the plugin of CoreDNS that does the same.
type source uint8

const (
	fromNowhere source = iota // refusals and errors
	fromCluster
	fromCache
	fromStale
	fromForward
	fromHosts
	fromRewrite
	fromSearch
	fromKernel // in the server's place
	sources
)

var sourceNames = [sources]string{"", "kubernetes", "cache", "stale", "forward", "hosts", "rewrite", "autopath", "kernel"}

// outcome is what a worker makes of a packet.
type outcome uint8

const (
	// dropped gets no answer.
	dropped outcome = iota
	// answered is ready to be sent.
	answered
	// slow has to wait for others.
	slow
)

// worker is the state of one loop, so that answering allocates nothing. It is for one goroutine.
type worker struct {
	s     *Server
	stats *stats
	proto proto
	q     wire.Query
	r     *wire.Reply
	key   [300]byte
	turn  int
	// from and zone are where the last answer came from.
	from source
	zone zoneKind
}

func (s *Server) newWorker(p proto, st *stats, size int) *worker {
	return &worker{s: s, stats: st, proto: p, r: wire.NewReply(size)}
}

// handle answers a packet if nobody has to be waited for. size is what the transport carries, now the time in ns.
func (w *worker) handle(pkt []byte, client netip.Addr, size int, now int64) outcome {
	out := w.resolve(pkt, client, size, now)
	if out == answered {
		w.r.Finish(&w.q)
		w.stats.count(w, client)
	}
	return out
}

func (w *worker) resolve(pkt []byte, client netip.Addr, size int, now int64) outcome {
	q, r := &w.q, w.r
	w.from, w.zone = fromNowhere, zoneOther
	status := q.Parse(pkt)
	if status == wire.Ignore {
		return dropped
	}
	r.Begin(q, pkt, q.Limit(size))
	switch {
	case status == wire.Malformed:
		r.Rcode = wire.FormErr
		return answered
	case status == wire.Unknown:
		r.Rcode = wire.NotImp
		return answered
	case q.EDNS && q.Version != 0:
		r.Rcode = wire.BadVers
		return answered
	case q.Class != wire.ClassIN || q.Type == wire.TypeAXFR || q.Type == wire.TypeIXFR:
		r.Rcode = wire.Refused
		return answered
	}
	set := w.s.settings.Load()
	if set.special {
		if out, done := w.rules(set, client, now); done {
			return out
		}
	}
	return w.lookup(set, client)
}

// rules are what the configuration may ask for before any answer.
func (w *worker) rules(set *settings, client netip.Addr, now int64) (outcome, bool) {
	if set.limit != nil && !set.limit.allow(client, now) {
		w.stats.limited.Add(1)
		return dropped, true
	}
	if set.acl != nil && set.denied(&w.q, w.s.namespace(client)) {
		w.r.Rcode = wire.Refused
		return answered, true
	}
	if set.logEvery > 0 && w.s.metrics.sampled(set.logEvery) {
		w.s.cfg.Logger.LogAttrs(w.s.ctx, slog.LevelInfo, "query", slog.String("name", wire.NameString(w.q.Name())),
			slog.Int("type", int(w.q.Type)), slog.String("client", client.String()))
	}
	if _, ok := set.rewritten(&w.q); ok {
		return slow, true
	}
	return 0, false
}

func (w *worker) lookup(set *settings, client netip.Addr) outcome {
	q, r := &w.q, w.r
	w.turn++
	switch v, _ := w.s.cfg.Zone.Answer(q, r, w.turn); v {
	case cluster.Answered:
		w.from, w.zone = fromCluster, zoneCluster
		if set.search && r.Rcode == wire.NXDomain && w.s.searches(q, client) {
			return slow
		}
		return answered
	case cluster.Alias:
		return slow
	}
	if h, ok := set.hosts[string(q.Name())]; ok {
		w.from = fromHosts
		h.write(q, r, set.ttl)
		return answered
	}
	found, ok := w.s.cache.Get(cache.Key(w.key[:0], q))
	if !ok || found.Stale {
		return slow
	}
	if found.Prefetch {
		w.s.prefetch(q)
	}
	w.from = fromCache
	writeEntry(q, r, found)
	return answered
}

func writeEntry(q *wire.Query, r *wire.Reply, f cache.Found) {
	f.Entry.Write(r, f.Age, f.Stale)
	r.Authentic = f.Entry.Authentic && (q.AD() || q.DO)
}

// write adds a host's addresses; a name that is here has no other records.
func (h hostAddrs) write(q *wire.Query, r *wire.Reply, ttl uint32) {
	r.Authoritative = true
	list := h.v4
	switch q.Type {
	case wire.TypeA:
	case wire.TypeAAAA:
		list = h.v6
	default:
		return
	}
	for _, a := range list {
		if a.Is4() {
			v := a.As4()
			copy(r.Record(wire.Answer, wire.QuestionOwner, q.Type, ttl, 4), v[:])
		} else {
			v := a.As16()
			copy(r.Record(wire.Answer, wire.QuestionOwner, q.Type, ttl, 16), v[:])
		}
	}
}

// namespace is that of the client, empty for who is no pod.
func (s *Server) namespace(client netip.Addr) string {
	if s.cfg.Clients == nil {
		return ""
	}
	return s.cfg.Clients.Namespace(client)
}
