package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// Hammer is a steady load that counts what fails: for watching a Service while something is done to it.
type Hammer struct {
	// URL is requested again and again, each time on a new connection, by Workers workers.
	URL     string
	Workers int
	// Held, if set, is a TCP address that answers each line with a line; one connection to it is used all the time.
	Held string
	// Datagram and Connected, if set, are UDP addresses that answer each datagram: one by a socket that is not connected, and that
	// checks who answers, the other by one that is.
	Datagram, Connected string
	// Pause is between two requests of a worker, so that the load stays the same whatever answers.
	Pause time.Duration
	// Timeout is how long an HTTP request may take.
	Timeout time.Duration

	mu    sync.Mutex
	count hammerCount
}

// hammerCount is the running total, printed as a line of JSON every second.
type hammerCount struct {
	Requests  int `json:"requests"`
	Held      int `json:"held"`
	Datagrams int `json:"datagrams"`
	Connected int `json:"connected"`
	// Resets are how often a connected UDP socket was told that its backend is gone. That is no failure: it connects anew.
	Resets   int `json:"resets"`
	Failures int `json:"failures"`
	// Error is the first failure, Errors the first ones.
	Error  string   `json:"error,omitempty"`
	Errors []string `json:"errors,omitempty"`
}

const (
	// maxErrors is how many failures are told in words.
	maxErrors = 20
	// datagramTimeout is how long an answer to a datagram may take. Nothing on the way loses one.
	datagramTimeout = 2 * time.Second
)

// Run loads until ctx ends, writing the running total to out.
func (h *Hammer) Run(ctx context.Context, out io.Writer) error {
	var group sync.WaitGroup
	for range h.Workers {
		group.Go(func() { h.repeat(ctx, "http", func(c *hammerCount) { c.Requests++ }, h.get) })
	}
	if h.Held != "" {
		group.Go(func() { h.hold(ctx) })
	}
	if h.Datagram != "" {
		group.Go(func() { h.sendDatagrams(ctx) })
	}
	if h.Connected != "" {
		group.Go(func() { h.sendConnected(ctx) })
	}
	enc := json.NewEncoder(out)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			group.Wait()
		}
		h.mu.Lock()
		err := enc.Encode(h.count)
		h.mu.Unlock()
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// repeat does the request until ctx ends and counts.
func (h *Hammer) repeat(ctx context.Context, kind string, add func(*hammerCount), request func(context.Context) error) {
	for ctx.Err() == nil {
		began := time.Now()
		err := request(ctx)
		if ctx.Err() != nil {
			return
		}
		h.note(kind, began, err, add)
		time.Sleep(h.Pause)
	}
}

func (h *Hammer) note(kind string, began time.Time, err error, add func(*hammerCount)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	add(&h.count)
	if err == nil {
		return
	}
	h.count.Failures++
	text := fmt.Sprintf("%s: %s, after %v: %v", time.Now().Format(time.StampMilli), kind, time.Since(began).Round(time.Millisecond), err)
	if h.count.Error == "" {
		h.count.Error = text
	}
	if len(h.count.Errors) < maxErrors {
		h.count.Errors = append(h.count.Errors, text)
	}
}

func (h *Hammer) get(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}

// hold keeps one connection busy; a broken one is a failure and is opened anew.
func (h *Hammer) hold(ctx context.Context) {
	var conn net.Conn
	var lines *bufio.Reader
	h.repeat(ctx, "held", func(c *hammerCount) { c.Held++ }, func(ctx context.Context) (err error) {
		if conn == nil {
			if conn, err = new(net.Dialer).DialContext(ctx, "tcp", h.Held); err != nil {
				return err
			}
			lines = bufio.NewReader(conn)
		}
		if err = exchangeLine(conn, lines); err != nil {
			conn.Close()
			conn = nil
		}
		return err
	})
	if conn != nil {
		conn.Close()
	}
}

// sendDatagrams asks from one socket that is not connected. After a failure it takes another one, lest a late answer count for
// the next question.
func (h *Hammer) sendDatagrams(ctx context.Context) {
	var conn net.PacketConn
	h.repeat(ctx, "udp", func(c *hammerCount) { c.Datagrams++ }, func(ctx context.Context) (err error) {
		if conn == nil {
			if conn, err = new(net.ListenConfig).ListenPacket(ctx, "udp4", ":0"); err != nil {
				return err
			}
		}
		if err = exchangeDatagram(conn, h.Datagram); err != nil {
			err = fmt.Errorf("from %s: %w", conn.LocalAddr(), err)
			conn.Close()
			conn = nil
		}
		return err
	})
	if conn != nil {
		conn.Close()
	}
}

func exchangeDatagram(conn net.PacketConn, to string) error {
	addr, err := net.ResolveUDPAddr("udp4", to)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(datagramTimeout)); err != nil {
		return err
	}
	if _, err := conn.WriteTo([]byte("x"), addr); err != nil {
		return err
	}
	var answer [256]byte
	_, from, err := conn.ReadFrom(answer[:])
	if err == nil && from.String() != addr.String() {
		err = fmt.Errorf("%s answers instead of %s", from, addr)
	}
	return err
}

// sendConnected asks on a connected socket, and connects anew when it is told that its backend is gone.
func (h *Hammer) sendConnected(ctx context.Context) {
	var conn net.Conn
	once := func(ctx context.Context) (err error) {
		if conn == nil {
			if conn, err = new(net.Dialer).DialContext(ctx, "udp4", h.Connected); err != nil {
				return err
			}
		}
		if err = askConnected(conn); err != nil {
			err = fmt.Errorf("from %s: %w", conn.LocalAddr(), err)
			conn.Close()
			conn = nil
		}
		return err
	}
	h.repeat(ctx, "connected udp", func(c *hammerCount) { c.Connected++ }, func(ctx context.Context) error {
		err := once(ctx)
		if errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ECONNREFUSED) {
			h.mu.Lock()
			h.count.Resets++
			h.mu.Unlock()
			err = once(ctx)
		}
		return err
	})
	if conn != nil {
		conn.Close()
	}
}

func askConnected(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(datagramTimeout)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	var answer [256]byte
	_, err := conn.Read(answer[:])
	return err
}

func exchangeLine(conn net.Conn, lines *bufio.Reader) error {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "x\n"); err != nil {
		return err
	}
	_, err := lines.ReadString('\n')
	return err
}
