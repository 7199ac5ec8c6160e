package server

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/skep-io/skep/dns/wire"
)

const (
	// maxConns bounds TCP connections at once; the oldest clients are told to come back by being closed when idle.
	maxConns = 1024
	// idleTimeout is how long a connection may say nothing (RFC 7766 6.2.3 leaves it to the server).
	idleTimeout = 10 * time.Second
)

// serveTCP accepts connections until ctx ends.
func (s *Server) serveTCP(ctx context.Context, l net.Listener) error {
	slots := make(chan struct{}, maxConns)
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept DNS over TCP: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			s.serveConn(ctx, conn)
		})
	}
}

// serveConn answers the queries of a connection one after the other.
func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	remote, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return
	}
	client := remote.Addr().Unmap()
	w, in := s.newWorker(protoTCP, s.metrics.slow, 4096), bufio.NewReader(conn)
	var size [2]byte
	buf := make([]byte, 512)
	for ctx.Err() == nil {
		if err := conn.SetDeadline(time.Now().Add(idleTimeout)); err != nil {
			return
		}
		if _, err := io.ReadFull(in, size[:]); err != nil {
			return
		}
		n := messageLen(size[:])
		if n > cap(buf) {
			buf = make([]byte, n)
		}
		if _, err := io.ReadFull(in, buf[:n]); err != nil {
			return
		}
		msg := s.answerTCP(ctx, w, buf[:n], client)
		if msg == nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg))), msg...)); err != nil {
			return
		}
	}
}

func (s *Server) answerTCP(ctx context.Context, w *worker, pkt []byte, client netip.Addr) []byte {
	began := time.Now()
	switch w.handle(pkt, client, wire.MaxTCP, began.UnixNano()) {
	case answered:
		w.stats.took(w.zone, time.Since(began), 1)
		return w.r.Bytes()
	case slow:
		if !s.slots.enter(client) {
			return s.refusal(pkt, wire.MaxTCP)
		}
		defer s.slots.leave(client)
		return s.slowAnswer(ctx, protoTCP, pkt, client, wire.MaxTCP).msg
	}
	return nil
}
