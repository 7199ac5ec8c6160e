// Package server is the DNS server of one node: it answers for the cluster's zone from the watched objects, and asks
// upstream servers, through a cache, for everything else.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dns/cache"
	"github.com/skep-io/skep/dns/cluster"
	"github.com/skep-io/skep/dns/forward"
)

// cacheSize is the number of upstream answers kept.
const cacheSize = 10000

// Config says where to listen and what to answer from.
type Config struct {
	// Listen are the addresses to serve on, over UDP and TCP.
	Listen []netip.AddrPort
	// Zone answers for the cluster.
	Zone *cluster.Zone
	// Upstreams are asked for all other names.
	Upstreams []netip.AddrPort
	Logger    *slog.Logger
}

// Server answers questions. It is safe for concurrent use.
type Server struct {
	cfg     Config
	forward *forward.Forwarder
	cache   *cache.Cache
	answers *prometheus.CounterVec
	// servers are bound to their sockets by Listen.
	servers []*dns.Server
}

// New returns a server that does not listen yet.
func New(cfg Config) *Server {
	return &Server{
		cfg:     cfg,
		forward: forward.New(cfg.Upstreams),
		cache:   cache.New(cacheSize),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skep_dns_responses_total", Help: "DNS responses by source (cluster, cache, forward, stale) and response code.",
		}, []string{"source", "rcode"}),
	}
}

// Collectors are the server's metrics.
func (s *Server) Collectors() []prometheus.Collector { return []prometheus.Collector{s.answers} }

// Listen opens the sockets, so that a client that asks after it returned is answered once Run is called. A port that is
// taken gives an error that names it.
func (s *Server) Listen(ctx context.Context) error {
	control := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(err, serr)
	}}
	for _, addr := range s.cfg.Listen {
		// A socket for each CPU spares the readers a shared lock.
		for range runtime.GOMAXPROCS(0) {
			conn, err := control.ListenPacket(ctx, "udp", addr.String())
			if err != nil {
				return errors.Join(fmt.Errorf("serve DNS: %w", err), s.close())
			}
			s.servers = append(s.servers, &dns.Server{PacketConn: conn, Handler: s, UDPSize: dns.DefaultMsgSize})
		}
		l, err := control.Listen(ctx, "tcp", addr.String())
		if err != nil {
			return errors.Join(fmt.Errorf("serve DNS: %w", err), s.close())
		}
		s.servers = append(s.servers, &dns.Server{Listener: l, Handler: s})
	}
	return nil
}

// close closes sockets that never served.
func (s *Server) close() error {
	var errs []error
	for _, d := range s.servers {
		if d.PacketConn != nil {
			errs = append(errs, d.PacketConn.Close())
		} else {
			errs = append(errs, d.Listener.Close())
		}
	}
	s.servers = nil
	return errors.Join(errs...)
}

// Run answers until ctx ends, then closes the sockets. Listen comes first.
func (s *Server) Run(ctx context.Context) error {
	var group sync.WaitGroup
	failed := make(chan error, len(s.servers))
	for _, d := range s.servers {
		started := make(chan struct{})
		d.NotifyStartedFunc = func() { close(started) }
		group.Go(func() {
			if err := d.ActivateAndServe(); err != nil {
				failed <- err
			}
		})
		select {
		case <-started:
		case err := <-failed:
			failed <- err
		}
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	for _, d := range s.servers {
		_ = d.Shutdown() // one that failed is not running
	}
	group.Wait()
	return err
}
