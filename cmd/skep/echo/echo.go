// Package echo is the demo's server: it answers over TCP, UDP and HTTP with the name of the pod it runs in, so that a caller
// sees which backend a Service chose.
package echo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Config says what to answer and where. An empty address leaves that protocol out.
type Config struct {
	// Name is the answer, usually the pod's name.
	Name string
	// HTTP, TCP and UDP are listen addresses, host:port.
	HTTP, TCP, UDP string
	// Drain is how long to go on serving after ctx ends, for clients that have not yet heard that this backend leaves.
	Drain time.Duration
}

// Serve answers until ctx ends and Drain is over, then closes its listeners and waits for requests in flight.
// Returns the first error of listening.
func Serve(ctx context.Context, cfg Config) error {
	stop, cancel := context.WithCancel(context.Background())
	defer cancel()
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	for _, start := range []func(context.Context, *sync.WaitGroup, Config) error{serveHTTP, serveTCP, serveUDP} {
		if err := start(stop, &group, cfg); err != nil {
			return err
		}
	}
	<-ctx.Done()
	time.Sleep(cfg.Drain)
	return nil
}

// serveHTTP answers every request with the name and a newline.
func serveHTTP(ctx context.Context, group *sync.WaitGroup, cfg Config) error {
	if cfg.HTTP == "" {
		return nil
	}
	l, err := net.Listen("tcp", cfg.HTTP)
	if err != nil {
		return fmt.Errorf("listen for HTTP: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, cfg.Name)
	})}
	group.Go(func() { _ = server.Serve(l) }) // ends with ErrServerClosed
	group.Go(func() {
		<-ctx.Done()
		done, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(done) // what is still open then is cut when the process ends
	})
	return nil
}

// serveTCP answers every line with the name and a newline, until the client closes.
func serveTCP(ctx context.Context, group *sync.WaitGroup, cfg Config) error {
	if cfg.TCP == "" {
		return nil
	}
	l, err := net.Listen("tcp", cfg.TCP)
	if err != nil {
		return fmt.Errorf("listen for TCP: %w", err)
	}
	context.AfterFunc(ctx, func() { l.Close() })
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // out of descriptors or a peer that left: the next one may do
			}
			go answerLines(conn, cfg.Name)
		}
	})
	return nil
}

func answerLines(conn net.Conn, name string) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if _, err := fmt.Fprintln(conn, name); err != nil {
			return
		}
	}
}

// serveUDP answers every datagram with the name and a newline.
func serveUDP(ctx context.Context, group *sync.WaitGroup, cfg Config) error {
	if cfg.UDP == "" {
		return nil
	}
	conn, err := net.ListenPacket("udp", cfg.UDP)
	if err != nil {
		return fmt.Errorf("listen for UDP: %w", err)
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	group.Go(func() {
		buf, answer := make([]byte, 1), []byte(cfg.Name+"\n")
		for {
			_, from, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.WriteTo(answer, from) // a datagram may be lost
			}
		}
	})
	return nil
}
