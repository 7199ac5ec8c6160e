package reconcile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// Visit runs fn in this node's network namespace and in those of its pods, as far as their cookies are wanted.
type Visit func(wanted func(cookie uint64) bool, fn func() error) error

// Sockets resets connected sockets that are stuck with a backend which is gone: their packets pass no hook where another one could
// be chosen. The application learns of it (ECONNABORTED) and connects anew.
type Sockets struct {
	maps   *bpfmap.Maps
	visit  Visit
	logger *slog.Logger
	wake   chan struct{}

	mu    sync.Mutex
	stuck stuckWith
	// resets counts the sockets that were reset, failed those that were given up.
	resets, failed uint64
}

// stuckWith tells which sockets are to be reset.
type stuckWith struct {
	// backends are those that sockets asked a service for, and were given.
	backends map[served]struct{}
	// addresses are of backends, whatever the service.
	addresses map[netip.Addr]struct{}
}

// served is a backend as one of a service.
type served struct {
	service uint32
	backend desired.Backend
}

func nobody() stuckWith {
	return stuckWith{backends: map[served]struct{}{}, addresses: map[netip.Addr]struct{}{}}
}

// add adds what another tells.
func (s stuckWith) add(o stuckWith) {
	maps.Copy(s.backends, o.backends)
	maps.Copy(s.addresses, o.addresses)
}

func (s stuckWith) has(p bpfmap.Peer) bool {
	if _, ok := s.addresses[p.Backend.Address.Addr()]; ok {
		return true
	}
	_, ok := s.backends[served{p.Service, p.Backend}]
	return ok
}

// A reset that fails is tried again, as many times as resetAttempts says: a network namespace may go while it is visited.
const (
	resetRetry    = 100 * time.Millisecond
	resetAttempts = 5
)

// NewSockets returns what resets sockets. Run does its work.
func NewSockets(m *bpfmap.Maps, visit Visit, logger *slog.Logger) *Sockets {
	return &Sockets{maps: m, visit: visit, logger: logger, wake: make(chan struct{}, 1), stuck: nobody()}
}

// Reset resets, soon, the sockets that asked for one of the services and have the backend. It is safe for concurrent use.
func (s *Sockets) Reset(services []uint32, b desired.Backend) {
	gone := nobody()
	for _, id := range services {
		gone.backends[served{id, b}] = struct{}{}
	}
	s.ask(gone)
}

// ResetAddresses resets, soon, the sockets that asked for any service and have a backend at one of the addresses. It is safe for
// concurrent use.
func (s *Sockets) ResetAddresses(addresses map[netip.Addr]struct{}) {
	s.ask(stuckWith{addresses: addresses})
}

// Resets returns how many sockets were reset, and how many were given up. It is safe for concurrent use.
func (s *Sockets) Resets() (done, failed uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resets, s.failed
}

func (s *Sockets) ask(gone stuckWith) {
	s.mu.Lock()
	s.stuck.add(gone)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// ResetLost resets, soon, the connected sockets whose backend does not hold: those that it lost while no process was there to see it.
// It is safe for concurrent use.
func (s *Sockets) ResetLost(holds func(service uint32, b desired.Backend) bool) error {
	return s.maps.EachPeer(func(p bpfmap.Peer) bool {
		if !holds(p.Service, p.Backend) {
			s.Reset([]uint32{p.Service}, p.Backend)
		}
		return true
	})
}

// Run resets sockets until ctx ends. What came meanwhile is taken together: the cost is one pass over the connected sockets.
func (s *Sockets) Run(ctx context.Context) {
	var again <-chan time.Time
	failed, attempts := nobody(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-again:
		}
		gone := failed
		s.mu.Lock()
		gone.add(s.stuck)
		s.stuck = nobody()
		s.mu.Unlock()
		n, err := s.reset(gone)
		if err == nil {
			failed, attempts, again = nobody(), 0, nil
			s.mu.Lock()
			s.resets += uint64(n)
			s.mu.Unlock()
			s.logger.Debug("sockets were reset", "sockets", n)
			continue
		}
		if attempts++; attempts < resetAttempts {
			failed, again = gone, time.After(resetRetry)
			continue
		}
		s.mu.Lock()
		s.failed += uint64(n)
		s.mu.Unlock()
		s.logger.Warn("sockets stay connected to backends that are gone", "error", err)
		failed, attempts, again = nobody(), 0, nil
	}
}

// reset returns how many sockets there were to reset.
func (s *Sockets) reset(gone stuckWith) (int, error) {
	cookies, spaces := map[uint64]netip.AddrPort{}, map[uint64]struct{}{}
	err := s.maps.EachPeer(func(p bpfmap.Peer) bool {
		if gone.has(p) {
			cookies[p.Cookie], spaces[p.NetNS] = p.Backend.Address, struct{}{}
		}
		return true
	})
	if len(cookies) == 0 {
		return 0, err
	}
	wanted := func(cookie uint64) bool {
		_, ok := spaces[cookie]
		return ok || cookie == 0 // the kernel does not tell
	}
	return len(cookies), errors.Join(err, s.visit(wanted, func() error { return destroySockets(cookies) }))
}

// destroySockets resets the sockets of the thread's network namespace that have one of the cookies and are connected to its peer.
func destroySockets(cookies map[uint64]netip.AddrPort) error {
	// One for all requests: there may be thousands.
	socket, err := nl.Subscribe(unix.NETLINK_INET_DIAG)
	if err != nil {
		return fmt.Errorf("sock_diag: %w", err)
	}
	defer socket.Close()
	handle := map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: {Socket: socket}}
	var errs []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			errs = append(errs, destroyOf(handle, family, protocol, cookies))
		}
	}
	return errors.Join(errs...)
}

func destroyOf(handle map[int]*nl.SocketHandle, family, protocol uint8, cookies map[uint64]netip.AddrPort) error {
	dump := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	dump.AddData(diagRequest{family: family, protocol: protocol, states: ^uint32(0)})
	dump.Sockets = handle
	messages, err := dump.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return fmt.Errorf("list sockets: %w", err)
	}
	var errs []error
	for _, m := range messages {
		if len(m) < diagHead+sizeofID {
			continue
		}
		id := [sizeofID]byte(m[diagHead:])
		// A datagram socket may have been connected elsewhere since, past all Services: that leaves its row as it was.
		peer, ok := cookies[binary.NativeEndian.Uint64(id[sizeofID-8:])]
		if !ok || peerOf(m[0], id) != peer {
			continue
		}
		destroy := nl.NewNetlinkRequest(unix.SOCK_DESTROY, unix.NLM_F_ACK)
		destroy.AddData(diagRequest{family: m[0], protocol: protocol, states: 1 << m[1], id: id})
		destroy.Sockets = handle
		// A socket that has gone by itself is as good.
		if _, err := destroy.Execute(unix.NETLINK_INET_DIAG, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("destroy socket: %w", err))
		}
	}
	return errors.Join(errs...)
}

// peerOf returns the address that a socket of a family is connected to, as IPv4 also where an IPv6 socket has it mapped.
func peerOf(family uint8, id [sizeofID]byte) netip.AddrPort {
	port := binary.BigEndian.Uint16(id[idPeerPort:])
	if family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(id[idPeer:])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(id[idPeer:])).Unmap(), port)
}

// Sizes in the messages of sock_diag(7): inet_diag_msg begins with four bytes, of which family and state are the first, and
// inet_diag_sockid, which ends with the cookie. In that, the peer's port comes after the socket's own, and its address after both.
const (
	diagHead   = 4
	sizeofID   = 48
	idPeerPort = 2
	idPeer     = 20
)

// diagRequest is struct inet_diag_req_v2.
type diagRequest struct {
	family, protocol uint8
	states           uint32
	id               [sizeofID]byte
}

// Len and Serialize make it part of a netlink request.
func (diagRequest) Len() int { return 8 + sizeofID }

func (r diagRequest) Serialize() []byte {
	b := make([]byte, 0, r.Len())
	b = append(b, r.family, r.protocol, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, r.states)
	return append(b, r.id[:]...)
}
