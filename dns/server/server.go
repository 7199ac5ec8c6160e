// Package server is the DNS server of one node. Each socket has a loop that takes queries in batches and answers most of them at
// once, from the cluster's zone or the cache, without allocating; what has to wait for an upstream server goes to bounded
// goroutines beside it, so that an outage there is not felt here.
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
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skep-io/skep/dns/cache"
	"github.com/skep-io/skep/dns/cluster"
	"github.com/skep-io/skep/dns/config"
	"github.com/skep-io/skep/dns/forward"
)

// Clients knows whose address a client's is.
type Clients interface {
	// Namespace is that of the pod with the address, empty for others.
	Namespace(netip.Addr) string
}

// Config says where to listen and what to answer from.
type Config struct {
	// Listen are the addresses to serve on, over UDP and TCP; each must be one address, not all of the machine, or answers
	// could leave from another one.
	Listen []netip.AddrPort
	// Zone answers for the cluster.
	Zone *cluster.Zone
	// Clients serves rules about namespaces and the search path; without it no client's namespace is known.
	Clients Clients
	// Upstreams are asked for all other names unless the configuration names others.
	Upstreams []forward.Server
	// Kernel is what answers before the server, nil for nobody.
	Kernel Kernel
	// Sockets is how many share each UDP address; 0 is one for each CPU.
	Sockets int
	Logger  *slog.Logger
}

// Server answers questions. It is safe for concurrent use.
type Server struct {
	cfg      Config
	cache    *cache.Cache
	settings atomic.Pointer[settings]
	applying sync.Mutex
	flights  flights
	slots    admission
	metrics  *metrics
	upstream *forward.Metrics
	loops    *forward.Loops
	// ctx ends with Run, and with it probes and look-ups that nobody waits for.
	ctx    context.Context
	cancel context.CancelFunc

	udp []*udpSocket
	tcp []net.Listener
}

// New returns a server with the default configuration that does not listen yet. Close, or the end of Run, releases it.
func New(cfg Config) *Server {
	if cfg.Sockets == 0 {
		cfg.Sockets = runtime.GOMAXPROCS(0)
	}
	s := &Server{cfg: cfg, cache: cache.New(cache.Options{}), upstream: forward.NewMetrics(), loops: forward.NewLoops(cfg.Logger)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.flights.calls, s.flights.failed = map[string]*flight{}, map[string]time.Time{}
	s.slots.clients = map[netip.Addr]int{}
	s.metrics = newMetrics(s)
	s.Apply(&config.Config{})
	return s
}

// Apply takes a configuration into use. Look-ups in flight end as they began.
func (s *Server) Apply(c *config.Config) {
	s.applying.Lock()
	defer s.applying.Unlock()
	next := s.compile(c)
	s.cache.SetOptions(next.cache)
	s.cfg.Zone.SetPods(next.pods)
	s.cfg.Zone.SetTTL(next.ttl)
	if old := s.settings.Swap(next); old != nil {
		// Who asks the old servers now may still hear from them within this time.
		time.AfterFunc(forward.Budget, old.end)
	}
}

// Collectors are the server's metrics.
func (s *Server) Collectors() []prometheus.Collector {
	return append(s.upstream.Collectors(), s.metrics)
}

// Ready says whether the server knows the cluster, and so may be asked.
func (s *Server) Ready() bool { return s.cfg.Zone.Synced() }

// Listen opens the sockets, so that a client that asks after it returned is answered once Run is called. A port that is
// taken gives an error that names it.
func (s *Server) Listen(ctx context.Context) error {
	for _, addr := range s.cfg.Listen {
		for range s.cfg.Sockets {
			u, err := listenUDP(addr, s)
			if err != nil {
				return errors.Join(fmt.Errorf("serve DNS on %s over UDP: %w", addr, err), s.close())
			}
			s.udp = append(s.udp, u)
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr.String())
		if err != nil {
			return errors.Join(fmt.Errorf("serve DNS: %w", err), s.close())
		}
		s.tcp = append(s.tcp, l)
	}
	return nil
}

// close closes sockets that never served.
func (s *Server) close() error {
	var errs []error
	for _, u := range s.udp {
		errs = append(errs, u.close())
	}
	for _, l := range s.tcp {
		errs = append(errs, l.Close())
	}
	s.udp, s.tcp = nil, nil
	return errors.Join(errs...)
}

// Run answers until ctx ends, then closes the sockets. Listen comes first.
func (s *Server) Run(ctx context.Context) error {
	defer s.cancel()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	failed := make(chan error, len(s.udp)+len(s.tcp))
	for _, u := range s.udp {
		group.Go(func() {
			if err := u.serve(ctx); err != nil {
				failed <- err
			}
		})
	}
	for _, l := range s.tcp {
		group.Go(func() {
			if err := s.serveTCP(ctx, l); err != nil {
				failed <- err
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	stop()
	for _, u := range s.udp {
		u.wake()
	}
	for _, l := range s.tcp {
		l.Close()
	}
	group.Wait()
	s.cancel()
	s.slots.drain()
	return errors.Join(err, s.closeUDP())
}

func (s *Server) closeUDP() error {
	var errs []error
	for _, u := range s.udp {
		errs = append(errs, u.close())
	}
	return errors.Join(errs...)
}
