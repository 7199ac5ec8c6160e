package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Ports of the peer that the load side talks to.
const (
	// EchoPort sends back each byte.
	EchoPort = 7001
	// SinkPort reads and forgets.
	SinkPort = 7002
)

// ServePeer is the server side of the Service benchmark: an echo loop on bare sockets in one thread, and a sink. It returns
// when ctx ends or a listener fails.
func ServePeer(ctx context.Context) error {
	sink, err := net.Listen("tcp4", fmt.Sprintf(":%d", SinkPort))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	echo, err := net.Listen("tcp4", fmt.Sprintf(":%d", EchoPort))
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), sink.Close())
	}
	file, err := echo.(*net.TCPListener).File()
	if err != nil {
		return errors.Join(err, sink.Close(), echo.Close())
	}
	defer file.Close()
	defer echo.Close()
	context.AfterFunc(ctx, func() { sink.Close() })
	go serveSink(sink)
	return serveEcho(ctx, file)
}

func serveSink(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 256<<10)) // ends when the client leaves
		}()
	}
}

// serveEcho runs the echo loop on the listening socket.
func serveEcho(ctx context.Context, listener *os.File) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(ep)
	lfd := int(listener.Fd())
	if err := errors.Join(unix.SetNonblock(lfd, true), addReadable(ep, lfd)); err != nil {
		return err
	}
	events := make([]unix.EpollEvent, 128)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(ep, events, 500)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == lfd {
				acceptAll(ep, lfd)
			} else {
				echoOnce(int(e.Fd))
			}
		}
	}
	return nil
}

func addReadable(ep, fd int) error {
	return unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func acceptAll(ep, lfd int) {
	for {
		fd, _, err := unix.Accept4(lfd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		// Without it the second byte of a round trip would wait for the first one's delayed acknowledgement.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if addReadable(ep, fd) != nil {
			unix.Close(fd)
		}
	}
}

func echoOnce(fd int) {
	var buf [64]byte
	n, err := unix.Read(fd, buf[:])
	if errors.Is(err, unix.EAGAIN) {
		return
	}
	if n > 0 {
		_, err = unix.Write(fd, buf[:n])
	}
	if n <= 0 || err != nil {
		unix.Close(fd)
	}
}
