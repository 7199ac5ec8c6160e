package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dns/wire"
)

const (
	// batch is how many queries one system call takes; more wait in the socket's buffer.
	batch = 32
	// maxQuery is the longest query taken over UDP: a question and an OPT are far shorter.
	maxQuery = 1500
	// receiveBuffer is asked for a socket, so that a burst of a node's pods is kept.
	receiveBuffer = 1 << 20
)

// udpSocket is one of the sockets of an address (SO_REUSEPORT), with its loop and the buffers of a batch.
type udpSocket struct {
	fd     int
	server *Server
	worker *worker
	closed atomic.Bool
	once   sync.Once

	in, out []mmsghdr
	inBuf   [batch][maxQuery]byte
	outBuf  [batch][wire.MaxUDP]byte
	names   [batch]unix.RawSockaddrInet6
	vectors [2 * batch]unix.Iovec
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

func listenUDP(addr netip.AddrPort, s *Server) (*udpSocket, error) {
	family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(addr.Port()), Addr: [4]byte(addr.Addr().AsSlice()[:4])})
	if !addr.Addr().Is4() {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) // the system's bound may be lower
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), unix.Bind(fd, sa)); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	u := &udpSocket{fd: fd, server: s, worker: s.newWorker(protoUDP, s.metrics.newStats(), wire.MaxUDP), in: make([]mmsghdr, batch), out: make([]mmsghdr, batch)}
	for i := range batch {
		u.vectors[i].Base = &u.inBuf[i][0]
		u.vectors[i].SetLen(maxQuery)
		u.in[i].hdr.Iov, u.in[i].hdr.Name = &u.vectors[i], (*byte)(unsafe.Pointer(&u.names[i]))
		u.in[i].hdr.SetIovlen(1)
		u.out[i].hdr.Iov = &u.vectors[batch+i]
		u.out[i].hdr.SetIovlen(1)
	}
	return u, nil
}

// wake makes a waiting loop return: the kernel wakes the readers of a socket that is shut down, connected or not.
func (u *udpSocket) wake() {
	u.closed.Store(true)
	_ = unix.Shutdown(u.fd, unix.SHUT_RDWR) // says that it is not connected, and does its work
}

func (u *udpSocket) close() (err error) {
	u.once.Do(func() { err = unix.Close(u.fd) })
	return err
}

// serve answers until the socket is woken.
func (u *udpSocket) serve(context.Context) error {
	for {
		n, err := u.receive()
		if u.closed.Load() {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive DNS queries: %w", err)
		}
		u.answer(n)
	}
}

// receive waits for a query and takes what else has come.
func (u *udpSocket) receive() (int, error) {
	for i := range u.in {
		u.in[i].hdr.Namelen = unix.SizeofSockaddrInet6
	}
	for {
		n, _, errno := syscall.Syscall6(unix.SYS_RECVMMSG, uintptr(u.fd), uintptr(unsafe.Pointer(&u.in[0])), batch, unix.MSG_WAITFORONE, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH: // of an answer to a client that is gone
			if u.closed.Load() {
				return 0, nil
			}
		default:
			return 0, errno
		}
	}
}

// answer handles the first n queries of a batch and sends what is ready.
func (u *udpSocket) answer(n int) {
	w, ready := u.worker, 0
	began := time.Now()
	now := began.UnixNano()
	for i := range n {
		if u.in[i].hdr.Flags&unix.MSG_TRUNC != 0 {
			continue
		}
		pkt, client := u.inBuf[i][:u.in[i].len], address(&u.names[i])
		w.r.Use(u.outBuf[ready][:])
		switch w.handle(pkt, client, wire.MaxUDP, now) {
		case answered:
			reply := w.r.Bytes()
			vector, out := &u.vectors[batch+ready], &u.out[ready]
			vector.Base = &reply[0]
			vector.SetLen(len(reply))
			out.hdr.Name, out.hdr.Namelen = u.in[i].hdr.Name, u.in[i].hdr.Namelen
			ready++
		case slow:
			u.later(i, pkt, client)
		}
	}
	u.send(ready)
	if ready > 0 {
		w.stats.took(w.zone, time.Since(began), ready)
	}
}

// send sends the first n answers. What the kernel does not take is lost as any datagram may be.
func (u *udpSocket) send(n int) {
	for at := 0; at < n; {
		sent, _, errno := syscall.Syscall6(unix.SYS_SENDMMSG, uintptr(u.fd), uintptr(unsafe.Pointer(&u.out[at])), uintptr(n-at), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0 || sent == 0:
			at++
		default:
			at += int(sent)
		}
	}
}

// later lets a question wait beside the loop, or refuses it where too many do.
func (u *udpSocket) later(i int, pkt []byte, client netip.Addr) {
	s, name := u.server, u.names[i]
	nameLen := u.in[i].hdr.Namelen
	limit := u.worker.q.Limit(wire.MaxUDP)
	if !s.slots.enter(client) {
		u.sendTo(s.refusal(pkt, limit), &name, nameLen)
		return
	}
	pkt = append([]byte(nil), pkt...)
	go func() {
		defer s.slots.leave(client)
		u.sendTo(s.slowAnswer(s.ctx, protoUDP, pkt, client, limit).msg, &name, nameLen)
	}()
}

func (u *udpSocket) sendTo(msg []byte, name *unix.RawSockaddrInet6, nameLen uint32) {
	if len(msg) == 0 {
		return
	}
	_, _, _ = syscall.Syscall6(unix.SYS_SENDTO, uintptr(u.fd), uintptr(unsafe.Pointer(&msg[0])), uintptr(len(msg)), unix.MSG_DONTWAIT,
		uintptr(unsafe.Pointer(name)), uintptr(nameLen)) // a client that is gone asks no more
}

// address is the client's, IPv4 as such.
func address(name *unix.RawSockaddrInet6) netip.Addr {
	if name.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrFrom4(v4.Addr)
	}
	return netip.AddrFrom16(name.Addr).Unmap()
}

// messageLen is the length that stands before a message over TCP.
func messageLen(b []byte) int { return int(binary.BigEndian.Uint16(b)) }
