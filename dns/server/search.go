package server

import (
	"context"
	"net/netip"

	"github.com/miekg/dns"

	"github.com/skep-io/skep/dns/wire"
)

// searchTypes are what resolvers walk their search list for.
func searchType(t uint16) bool { return t == wire.TypeA || t == wire.TypeAAAA }

// searches says whether the name is the first that a pod's resolver makes of another by its search list: one below the pod's own
// namespace. Its namespace is known from its address, so the list is: <namespace>.svc.<domain>, svc.<domain>, <domain>.
func (s *Server) searches(q *wire.Query, client netip.Addr) bool {
	n := s.cfg.Zone.Left(q)
	if !searchType(q.Type) || n < 3 || string(q.Label(n-1)) != "svc" {
		return false
	}
	ns := s.namespace(client)
	return ns != "" && string(q.Label(n-2)) == ns
}

// search walks the rest of the list and answers with the first name that exists, behind an alias of the one asked for. ok is
// false where none does: the client then finds out by itself, as it would have.
func (s *Server) search(ctx context.Context, q *wire.Query, pkt []byte, client netip.Addr, limit int) (resolution, bool) {
	n := s.cfg.Zone.Left(q)
	short := q.Name()[:q.Offset(n-2)]
	for _, suffix := range [][]byte{q.From(n - 1), q.From(n), {0}} {
		name := append(append([]byte(nil), short...), suffix...)
		m, res, err := s.ask(ctx, q, name, client, 1)
		if err != nil || (m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError) {
			return resolution{}, false
		}
		if m.Rcode == dns.RcodeNameError {
			continue
		}
		query := new(dns.Msg)
		if query.Unpack(pkt) != nil {
			return resolution{}, false
		}
		alias := &dns.CNAME{Hdr: dns.RR_Header{Name: query.Question[0].Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: s.settings.Load().ttl}, Target: m.Question[0].Name}
		m.Answer = append([]dns.RR{alias}, m.Answer...)
		m.Authoritative, m.RecursionAvailable, m.Extra = false, true, nil
		return resolution{msg: finish(q, pkt, m, limit), from: fromSearch, why: "the search list led to " + wire.NameString(name) + ", from " + res.why}, true
	}
	return resolution{}, false
}
