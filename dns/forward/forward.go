// Package forward asks upstream DNS servers for names outside the cluster: over UDP, TCP where an answer does not fit, or TLS
// (RFC 7858). A server that fails is left alone until it answers a probe; a slow one is raced by the next.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// Budget bounds a whole look-up, below the 5 s after which resolvers ask again.
	Budget = 2 * time.Second
	// maxInFlight bounds look-ups at once, so that a dead upstream cannot pile up memory.
	maxInFlight = 1000
)

var (
	// ErrBusy is returned when too many look-ups are in flight.
	ErrBusy = errors.New("too many look-ups in flight")
	// ErrNoUpstream is returned when there is no server to ask.
	ErrNoUpstream = errors.New("no upstream DNS server is configured")
)

// Policy is the order in which the servers of a group are asked.
type Policy string

// The policies.
const (
	Sequential Policy = "sequential"
	Random     Policy = "random"
	RoundRobin Policy = "roundRobin"
)

// Server is one upstream server.
type Server struct {
	Addr netip.AddrPort
	// TLS asks over TLS; Name is then what the certificate must have, empty for the address.
	TLS  bool
	Name string
}

func (s Server) String() string {
	if s.TLS {
		return "tls://" + s.Addr.String()
	}
	return s.Addr.String()
}

// Group is a list of servers that are asked for the same names. It is safe for concurrent use.
type Group struct {
	servers []*upstream
	policy  Policy
	next    atomic.Uint32
	slots   chan struct{}
	metrics *Metrics
}

// NewGroup returns a group whose probes run until ctx ends. Servers that lead back here are found through loops and skipped.
func NewGroup(ctx context.Context, servers []Server, policy Policy, metrics *Metrics, loops *Loops, logger *slog.Logger) *Group {
	g := &Group{policy: policy, slots: make(chan struct{}, maxInFlight), metrics: metrics}
	for _, s := range servers {
		u := newUpstream(ctx, s, metrics, logger)
		g.servers = append(g.servers, u)
		if loops != nil {
			go loops.probe(ctx, u)
		}
	}
	return g
}

// Status is one server as a group sees it.
type Status struct {
	Server  string
	Healthy bool
	Loops   bool
	// P95 is how long answers take.
	P95 time.Duration
}

// Status lists the servers.
func (g *Group) Status() []Status {
	var out []Status
	for _, u := range g.servers {
		out = append(out, Status{Server: u.String(), Healthy: !u.down.Load(), Loops: u.loops.Load(), P95: u.took.p95()})
	}
	return out
}

// order returns the servers to ask: those that work in the order of the policy, then, for want of better, the others.
func (g *Group) order() []*upstream {
	n := len(g.servers)
	start := 0
	switch g.policy {
	case Random:
		start = rand.IntN(max(n, 1))
	case RoundRobin:
		start = int(g.next.Add(1)) % max(n, 1)
	}
	var up, down []*upstream
	for i := range n {
		switch u := g.servers[(start+i)%n]; {
		case u.loops.Load():
		case u.down.Load():
			down = append(down, u)
		default:
			up = append(up, u)
		}
	}
	return append(up, down...)
}

type reply struct {
	msg *dns.Msg
	to  *upstream
	err error
}

// Exchange returns the first usable answer and the server that gave it. The query is not changed. Returns ErrBusy or
// ErrNoUpstream without asking, otherwise the last server's error when none answered within Budget.
func (g *Group) Exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, string, error) {
	servers := g.order()
	if len(servers) == 0 {
		return nil, "", ErrNoUpstream
	}
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	default:
		g.metrics.rejects.Inc()
		return nil, "", ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	replies := make(chan reply, len(servers))
	ask := func(u *upstream) {
		go func() {
			m, err := u.exchange(ctx, query.Copy())
			replies <- reply{m, u, err}
		}()
	}
	ask(servers[0])
	asked, pending := 1, 1
	hedge := time.NewTimer(servers[0].hedgeAfter())
	defer hedge.Stop()
	for {
		select {
		case r := <-replies:
			if pending--; r.err == nil {
				return r.msg, r.to.String(), nil
			}
			if asked == len(servers) && pending == 0 {
				return nil, "", r.err
			}
		case <-hedge.C:
		}
		if asked < len(servers) {
			ask(servers[asked])
			hedge.Reset(servers[asked].hedgeAfter())
			asked, pending = asked+1, pending+1
		}
	}
}

// usable turns a server's own failure into an error, so that another one is asked.
func usable(m *dns.Msg, u *upstream) error {
	if m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused || m.Rcode == dns.RcodeNotImplemented {
		return fmt.Errorf("ask %s: %s", u, dns.RcodeToString[m.Rcode])
	}
	return nil
}
