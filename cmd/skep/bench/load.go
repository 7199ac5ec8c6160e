package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The load side works on bare sockets and one thread: the cost of a request is then the kernel's and not a scheduler's, so
// that what differs between two paths is the paths.

// connections opens connections to addr for the given time, workers at once: connect, one byte there, one byte back, close.
// It returns how many came to their end and how long each connect took. The client resets instead of lingering, since
// TIME_WAIT would use up the ports within seconds. Any failed connection is an error.
func connections(addr netip.AddrPort, workers int, length time.Duration) (rate float64, connect []time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return 0, nil, err
	}
	defer unix.Close(ep)
	slots := make([]slot, workers)
	defer func() {
		for i := range slots {
			slots[i].close()
		}
	}()
	for i := range slots {
		slots[i].fd = -1
		if err := slots[i].open(ep, i, addr); err != nil {
			return 0, nil, err
		}
	}
	connect = make([]time.Duration, 0, 1<<17)
	events := make([]unix.EpollEvent, workers)
	began := time.Now()
	done := 0
	for time.Since(began) < length {
		n, err := unix.EpollWait(ep, events, 1000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, nil, fmt.Errorf("epoll: %w", err)
		}
		if n == 0 {
			return 0, nil, fmt.Errorf("connect to %s: no answer for a second", addr)
		}
		for _, e := range events[:max(n, 0)] {
			s := &slots[e.Fd]
			finished, err := s.step(addr)
			if err != nil {
				return 0, nil, err
			}
			if !finished {
				continue
			}
			connect = append(connect, s.connected.Sub(s.began))
			done++
			s.close()
			if err := s.open(ep, int(e.Fd), addr); err != nil {
				return 0, nil, err
			}
		}
	}
	return float64(done) / time.Since(began).Seconds(), connect, nil
}

// slot is one worker's connection in flight.
type slot struct {
	fd               int
	began, connected time.Time
}

func (s *slot) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// open starts a connection and watches it under the slot's index.
func (s *slot) open(ep, index int, addr netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	s.fd, s.connected = fd, time.Time{}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return fmt.Errorf("linger: %w", err)
	}
	s.began = time.Now()
	if err := unix.Connect(fd, sockaddr(addr)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET, Fd: int32(index)}
	return unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &e)
}

// step goes on with a connection that the kernel reported ready; finished says that the answer is there.
func (s *slot) step(addr netip.AddrPort) (finished bool, err error) {
	buf := [1]byte{'x'}
	if s.connected.IsZero() {
		if code, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
			return false, fmt.Errorf("connect to %s: %w", addr, errors.Join(err, unix.Errno(code)))
		}
		if _, err := unix.Write(s.fd, buf[:]); errors.Is(err, unix.EAGAIN) {
			return false, nil
		} else if err != nil {
			return false, fmt.Errorf("write to %s: %w", addr, err)
		}
		s.connected = time.Now()
	}
	n, err := unix.Read(s.fd, buf[:])
	if errors.Is(err, unix.EAGAIN) {
		return false, nil
	}
	if err != nil || n != 1 {
		return false, fmt.Errorf("read from %s: %d bytes, %w", addr, n, err)
	}
	return true, nil
}

// roundTrips measures one byte there and back on a held connection for the given time.
func roundTrips(addr netip.AddrPort, length time.Duration) ([]time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := dial(addr)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return nil, fmt.Errorf("nodelay: %w", err)
	}
	took := make([]time.Duration, 0, 1<<16)
	buf := [1]byte{'x'}
	for began := time.Now(); time.Since(began) < length; {
		sent := time.Now()
		if _, err := unix.Write(fd, buf[:]); err != nil {
			return nil, fmt.Errorf("write to %s: %w", addr, err)
		}
		n, err := unix.Read(fd, buf[:])
		for errors.Is(err, unix.EINTR) { // the Go scheduler's signals end a blocking call
			n, err = unix.Read(fd, buf[:])
		}
		if err != nil || n != 1 {
			return nil, fmt.Errorf("read from %s: %d bytes, %w", addr, n, err)
		}
		took = append(took, time.Since(sent))
	}
	return took, nil
}

// throughput sends on one connection for the given time and returns megabits a second.
func throughput(addr netip.AddrPort, length time.Duration) (float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := dial(addr)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	chunk := make([]byte, 128<<10)
	sent := 0
	began := time.Now()
	for time.Since(began) < length {
		n, err := unix.Write(fd, chunk)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("write to %s: %w", addr, err)
		}
		sent += n
	}
	return float64(sent) * 8 / 1e6 / time.Since(began).Seconds(), nil
}

// dial connects a blocking socket that gives up after five seconds.
func dial(addr netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	limit := unix.Timeval{Sec: 5}
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.Connect(fd, sockaddr(addr)))
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return fd, nil
}

func sockaddr(addr netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}
}
