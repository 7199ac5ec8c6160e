package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxFails is how many look-ups in a row fail before a server is left alone; probeEvery how often it is then tried.
	maxFails   = 2
	probeEvery = 500 * time.Millisecond
	// hedgeMin and hedgeMax bound the wait for one server before the next is asked as well; hedgeFirst is it until there are
	// enough answers to know.
	hedgeMin, hedgeFirst, hedgeMax = 5 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond
	// maxIdle TLS connections are kept, each for idleTime.
	maxIdle  = 8
	idleTime = 8 * time.Second
)

// upstream is one server with what is known of it.
type upstream struct {
	Server
	text    string
	tls     *tls.Config
	metrics *Metrics
	logger  *slog.Logger
	ctx     context.Context // ends probes
	fails   atomic.Int32
	down    atomic.Bool
	loops   atomic.Bool
	took    latency

	mu   sync.Mutex
	idle []idleConn
}

type idleConn struct {
	conn  *dns.Conn
	since time.Time
}

func newUpstream(ctx context.Context, s Server, metrics *Metrics, logger *slog.Logger) *upstream {
	u := &upstream{Server: s, text: s.String(), metrics: metrics, logger: logger, ctx: ctx}
	if s.TLS {
		name := s.Name
		if name == "" {
			name = s.Addr.Addr().String()
		}
		u.tls = &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	}
	context.AfterFunc(ctx, u.closeIdle)
	return u
}

func (u *upstream) String() string { return u.text }

func (u *upstream) hedgeAfter() time.Duration {
	if p := u.took.p95(); p > 0 {
		return min(max(p, hedgeMin), hedgeMax)
	}
	return hedgeFirst
}

// exchange asks the server and keeps account of how it does.
func (u *upstream) exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	query.Id = dns.Id()
	began := time.Now()
	u.metrics.requests.WithLabelValues(u.text).Inc()
	m, err := u.ask(ctx, query)
	switch {
	case err == nil:
		took := time.Since(began)
		u.took.add(took)
		u.fails.Store(0)
		u.metrics.responses.WithLabelValues(u.text, dns.RcodeToString[m.Rcode]).Inc()
		u.metrics.duration.WithLabelValues(u.text, dns.RcodeToString[m.Rcode]).Observe(took.Seconds())
		return m, usable(m, u)
	case !errors.Is(ctx.Err(), context.Canceled): // else another server was faster
		if u.fails.Add(1) >= maxFails && u.down.CompareAndSwap(false, true) {
			u.metrics.broken.Inc()
			u.logger.Warn("upstream DNS server does not answer", "server", u.text, "error", err)
			go u.probe()
		}
	}
	return nil, fmt.Errorf("ask %s: %w", u, err)
}

func (u *upstream) ask(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	if u.TLS {
		return u.askTLS(ctx, query)
	}
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network, Timeout: Budget, UDPSize: dns.DefaultMsgSize, Dialer: &net.Dialer{Timeout: Budget}}
		m, _, err := client.ExchangeContext(ctx, query, u.Addr.String())
		if err != nil || !m.Truncated || network == "tcp" {
			return m, err
		}
	}
	return nil, nil // not reached
}

// askTLS takes an idle connection, and a new one where the server has closed that.
func (u *upstream) askTLS(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	client := dns.Client{Net: "tcp-tls", TLSConfig: u.tls, Timeout: Budget}
	if conn := u.takeIdle(); conn != nil {
		if m, _, err := client.ExchangeWithConnContext(ctx, query, conn); err == nil {
			u.keepIdle(conn)
			return m, nil
		}
		conn.Close()
	}
	conn, err := client.DialContext(ctx, u.Addr.String())
	if err != nil {
		return nil, err
	}
	m, _, err := client.ExchangeWithConnContext(ctx, query, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	u.keepIdle(conn)
	return m, nil
}

func (u *upstream) takeIdle() *dns.Conn {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.idle) > 0 {
		last := u.idle[len(u.idle)-1]
		u.idle = u.idle[:len(u.idle)-1]
		if time.Since(last.since) < idleTime {
			return last.conn
		}
		last.conn.Close()
	}
	return nil
}

func (u *upstream) keepIdle(conn *dns.Conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.idle) == maxIdle || u.ctx.Err() != nil {
		conn.Close()
		return
	}
	u.idle = append(u.idle, idleConn{conn, time.Now()})
}

func (u *upstream) closeIdle() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, i := range u.idle {
		i.conn.Close()
	}
	u.idle = nil
}

// probe tries a server that was given up until it answers, whatever it answers.
func (u *upstream) probe() {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-u.ctx.Done():
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(u.ctx, Budget)
		_, err := u.ask(ctx, new(dns.Msg).SetQuestion(".", dns.TypeNS))
		cancel()
		if err == nil {
			u.fails.Store(0)
			u.down.Store(false)
			u.logger.Info("upstream DNS server answers again", "server", u.text)
			return
		}
		u.metrics.probeFailures.WithLabelValues(u.text).Inc()
	}
}

// latency keeps the last answers' times.
type latency struct {
	mu     sync.Mutex
	recent [64]time.Duration
	count  int
	known  atomic.Int64 // p95 in ns, 0 before there are enough
}

func (l *latency) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent[l.count%len(l.recent)] = d
	if l.count++; l.count%16 == 0 {
		s := slices.Sorted(slices.Values(l.recent[:min(l.count, len(l.recent))]))
		l.known.Store(int64(s[len(s)*95/100]))
	}
}

func (l *latency) p95() time.Duration { return time.Duration(l.known.Load()) }
