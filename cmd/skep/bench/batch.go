package bench

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendBatch is how many look-ups one socket keeps in flight, and at most sends or receives in one system call.
const sendBatch = 16

// batchSocket is a connected socket with the buffers of recvmmsg(2) and sendmmsg(2).
type batchSocket struct {
	fd       int
	question []byte
	in, out  [sendBatch]mmsghdr
	vectors  [sendBatch + 1]unix.Iovec
	buf      [sendBatch][1500]byte
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

func newBatchSocket(l Lookup, question []byte, window int) (*batchSocket, error) {
	fd, err := dialUDP(l.Addr)
	if err != nil {
		return nil, err
	}
	s := &batchSocket{fd: fd, question: question}
	s.vectors[sendBatch].Base = &question[0]
	s.vectors[sendBatch].SetLen(len(question))
	for i := range window {
		s.vectors[i].Base = &s.buf[i][0]
		s.vectors[i].SetLen(len(s.buf[i]))
		s.in[i].hdr.Iov, s.out[i].hdr.Iov = &s.vectors[i], &s.vectors[sendBatch]
		s.in[i].hdr.SetIovlen(1)
		s.out[i].hdr.SetIovlen(1)
	}
	return s, nil
}

// send asks n times.
func (s *batchSocket) send(n int) error {
	for at := 0; at < n; {
		sent, _, errno := syscall.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.out[at])), uintptr(n-at), 0, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return errno
		}
		if errno == 0 {
			at += int(sent)
		}
	}
	return nil
}

// receive takes what has come without waiting, and checks it.
func (s *batchSocket) receive(l Lookup) (int, error) {
	n, _, errno := syscall.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.in[0])), sendBatch, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		if errors.Is(errno, unix.EAGAIN) || errors.Is(errno, unix.EINTR) {
			return 0, nil
		}
		return 0, fmt.Errorf("answer of %s: %w", l.Addr, errno)
	}
	for i := range int(n) {
		if s.in[i].len < 12 {
			return 0, fmt.Errorf("answer of %s for %s: %d bytes", l.Addr, l.Name, s.in[i].len)
		}
		if err := l.check(s.buf[i][:]); err != nil {
			return 0, err
		}
	}
	return int(n), nil
}
