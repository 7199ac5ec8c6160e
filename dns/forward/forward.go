// Package forward asks upstream DNS servers for names outside the cluster.
package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/miekg/dns"
)

const (
	// hedgeAfter is how long to wait for one upstream before asking the next as well.
	hedgeAfter = 250 * time.Millisecond
	// Budget bounds a whole look-up, below the 5 s after which resolvers ask again.
	Budget = 2 * time.Second
	// maxInFlight bounds look-ups at once, so that a dead upstream cannot pile up memory.
	maxInFlight = 1000
)

// ErrBusy is returned when too many look-ups are in flight.
var ErrBusy = errors.New("too many look-ups in flight")

// ErrNoUpstream is returned when there is no server to ask.
var ErrNoUpstream = errors.New("no upstream DNS server is configured")

// Forwarder asks a fixed list of servers, in order, with the next one as a hedge. It is safe for concurrent use.
type Forwarder struct {
	upstreams []string
	slots     chan struct{}
}

// New returns a forwarder to the given servers.
func New(upstreams []netip.AddrPort) *Forwarder {
	f := &Forwarder{slots: make(chan struct{}, maxInFlight)}
	for _, u := range upstreams {
		f.upstreams = append(f.upstreams, u.String())
	}
	return f
}

// Upstreams reads the servers of a resolv.conf (resolv.conf(5)), leaving out those that are self. Returns an error that
// names the file if it cannot be read.
func Upstreams(file string, self ...netip.Addr) ([]netip.AddrPort, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read upstream DNS servers: %w", err)
	}
	defer f.Close()
	cfg, err := dns.ClientConfigFromReader(f)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", file, err)
	}
	var out []netip.AddrPort
next:
	for _, s := range cfg.Servers {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			continue
		}
		for _, own := range self {
			if addr == own {
				continue next
			}
		}
		out = append(out, netip.AddrPortFrom(addr, 53))
	}
	return out, nil
}

type reply struct {
	msg *dns.Msg
	err error
}

// Exchange returns the first usable answer of an upstream. The query is not changed. Returns ErrBusy or ErrNoUpstream without
// asking, otherwise the last upstream's error when none answered within Budget.
func (f *Forwarder) Exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	if len(f.upstreams) == 0 {
		return nil, ErrNoUpstream
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return nil, ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	replies := make(chan reply, len(f.upstreams))
	ask := func(i int) {
		go func() {
			m, err := exchange(ctx, query.Copy(), f.upstreams[i])
			replies <- reply{m, err}
		}()
	}
	ask(0)
	asked, pending := 1, 1
	hedge := time.NewTicker(hedgeAfter)
	defer hedge.Stop()
	for {
		more := false
		select {
		case r := <-replies:
			if pending--; r.err == nil {
				return r.msg, nil
			}
			if asked == len(f.upstreams) && pending == 0 {
				return nil, r.err
			}
			more = true
		case <-hedge.C:
			more = true
		}
		if more && asked < len(f.upstreams) {
			ask(asked)
			asked, pending = asked+1, pending+1
		}
	}
}

// exchange asks one server by UDP, and again by TCP where the answer did not fit. A server's own failure is an error, so
// that another one is asked.
func exchange(ctx context.Context, query *dns.Msg, server string) (*dns.Msg, error) {
	query.Id = dns.Id()
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network, Timeout: Budget, UDPSize: dns.DefaultMsgSize, Dialer: &net.Dialer{Timeout: Budget}}
		m, _, err := client.ExchangeContext(ctx, query, server)
		if err != nil {
			return nil, fmt.Errorf("ask %s: %w", server, err)
		}
		if m.Truncated && network == "udp" {
			continue
		}
		if m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused {
			return nil, fmt.Errorf("ask %s: %s", server, dns.RcodeToString[m.Rcode])
		}
		return m, nil
	}
	return nil, fmt.Errorf("ask %s: truncated over TCP", server)
}
