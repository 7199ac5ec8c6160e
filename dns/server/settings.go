package server

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/dns/cache"
	"github.com/skep-io/skep/dns/cluster"
	"github.com/skep-io/skep/dns/config"
	"github.com/skep-io/skep/dns/forward"
	"github.com/skep-io/skep/dns/wire"
)

// settings are a configuration in the form in which answering needs it. Immutable. Names are in wire form, lower case.
type settings struct {
	ttl      uint32
	pods     cluster.PodMode
	cache    cache.Options
	search   bool
	hosts    map[string]hostAddrs
	rewrites []rewrite
	limit    *limiter
	acl      []rule
	nat64    netip.Prefix
	logEvery uint32
	// groups are the upstream servers by zone; the root's are for all others.
	groups map[string]*forward.Group
	root   *forward.Group
	// special is false where none of limit, acl, rewrites and logEvery is set: nothing is to be looked at before answering.
	special bool
	end     context.CancelFunc
}

type hostAddrs struct{ v4, v6 []netip.Addr }

type rewrite struct {
	exact    bool
	from, to []byte
}

type rule struct {
	namespaces map[string]bool
	names      [][]byte
	deny       bool
}

func (s *Server) compile(c *config.Config) *settings {
	ctx, cancel := context.WithCancel(s.ctx)
	out := &settings{ttl: cluster.DefaultTTL, search: c.SearchPath, nat64: c.NAT64(), logEvery: c.Log.Every, end: cancel,
		hosts: map[string]hostAddrs{}, groups: map[string]*forward.Group{},
		pods: map[string]cluster.PodMode{"disabled": cluster.PodsDisabled, "verified": cluster.PodsVerified}[c.Pods]}
	if c.TTL != nil {
		out.ttl = *c.TTL
	}
	out.cache = cache.Options{Size: 10000, MaxTTL: duration(c.Cache.MaxTTL, 30*time.Second),
		MaxNegativeTTL: duration(c.Cache.MaxNegativeTTL, 30*time.Second), Stale: duration(c.Cache.ServeStale, time.Hour)}
	if c.Cache.Size != nil {
		out.cache.Size = *c.Cache.Size
	}
	for name, addrs := range c.Hosts {
		out.hosts[string(wireName(name))] = newHostAddrs(addrs)
	}
	for _, r := range c.Rewrite {
		out.rewrites = append(out.rewrites, rewrite{exact: r.Name != "", from: wireName(r.Name + r.Suffix), to: wireName(r.To)})
	}
	if c.RateLimit != nil {
		out.limit = newLimiter(c.RateLimit.QueriesPerSecond, c.RateLimit.Burst)
	}
	for _, a := range c.ACL {
		out.acl = append(out.acl, newRule(a))
	}
	s.compileGroups(ctx, c, out)
	out.special = out.limit != nil || out.acl != nil || out.rewrites != nil || out.logEvery > 0
	return out
}

func (s *Server) compileGroups(ctx context.Context, c *config.Config, out *settings) {
	logger := s.cfg.Logger
	servers := c.Upstream.Parsed()
	if len(servers) == 0 {
		servers = s.cfg.Upstreams
	}
	out.root = forward.NewGroup(ctx, s.withoutSelf(servers, logger), c.Upstream.Policy, s.upstream, s.loops, logger)
	for zone, u := range c.Zones {
		out.groups[string(wireName(zone))] = forward.NewGroup(ctx, s.withoutSelf(u.Parsed(), logger), u.Policy, s.upstream, s.loops, logger)
	}
}

// withoutSelf leaves out servers that are this one.
func (s *Server) withoutSelf(servers []forward.Server, logger *slog.Logger) []forward.Server {
	var out []forward.Server
next:
	for _, u := range servers {
		for _, own := range s.cfg.Listen {
			if u.Addr == own {
				logger.Warn("upstream DNS server is this server and is skipped; configure another", "server", u.String())
				continue next
			}
		}
		out = append(out, u)
	}
	return out
}

func duration(d *metav1.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return d.Duration
}

// wireName is a name that the configuration's validation has seen.
func wireName(name string) []byte {
	b, err := wire.AppendName(nil, config.Lower(name))
	if err != nil {
		return []byte{0}
	}
	return b
}

func newHostAddrs(addrs []string) hostAddrs {
	var h hostAddrs
	for _, text := range addrs {
		switch a, err := netip.ParseAddr(text); {
		case err != nil:
		case a.Unmap().Is4():
			h.v4 = append(h.v4, a.Unmap())
		default:
			h.v6 = append(h.v6, a)
		}
	}
	return h
}

func newRule(a config.ACL) rule {
	r := rule{deny: a.Action == "deny"}
	if len(a.Namespaces) > 0 {
		r.namespaces = map[string]bool{}
	}
	for _, ns := range a.Namespaces {
		r.namespaces[ns] = true
	}
	for _, n := range a.Names {
		r.names = append(r.names, wireName(n))
	}
	return r
}

// denied says whether the first rule that fits the question refuses it.
func (set *settings) denied(q *wire.Query, namespace string) bool {
	for _, r := range set.acl {
		if r.namespaces != nil && !r.namespaces[namespace] {
			continue
		}
		fits := r.names == nil
		for _, n := range r.names {
			fits = fits || under(q, n)
		}
		if fits {
			return r.deny
		}
	}
	return false
}

// under says whether the question's name is the domain or below it.
func under(q *wire.Query, domain []byte) bool {
	name := q.Name()
	if len(domain) > len(name) || string(name[len(name)-len(domain):]) != string(domain) {
		return false
	}
	for i := range q.Labels() + 1 {
		if q.Offset(i) == len(name)-len(domain) {
			return true
		}
	}
	return false
}

// rewritten is the name to ask for instead.
func (set *settings) rewritten(q *wire.Query) ([]byte, bool) {
	name := q.Name()
	for _, r := range set.rewrites {
		switch {
		case r.exact && string(name) == string(r.from):
			return r.to, true
		case !r.exact && under(q, r.from):
			to := append(append([]byte(nil), name[:len(name)-len(r.from)]...), r.to...)
			return to, len(to) <= 255
		}
	}
	return nil, false
}

// group is the upstream servers for the question: those of the longest zone that it lies in.
func (set *settings) group(q *wire.Query) *forward.Group {
	if len(set.groups) > 0 {
		for i := range q.Labels() {
			if g := set.groups[string(q.From(i))]; g != nil {
				return g
			}
		}
	}
	return set.root
}
