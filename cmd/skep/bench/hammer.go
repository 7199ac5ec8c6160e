package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Hammer is a steady load that counts what fails: for watching a Service while something is done to it.
type Hammer struct {
	// URL is requested again and again, each time on a new connection, by Workers workers.
	URL     string
	Workers int
	// Held, if set, is a TCP address that answers each line with a line; one connection to it is used all the time.
	Held string

	mu    sync.Mutex
	count hammerCount
}

// hammerCount is the running total, printed as a line of JSON every second.
type hammerCount struct {
	Requests int `json:"requests"`
	Held     int `json:"held"`
	Failures int `json:"failures"`
	// Error is the first failure.
	Error string `json:"error,omitempty"`
}

// pause between two requests of a worker, so that the load stays the same whatever answers.
const pause = 2 * time.Millisecond

// Run loads until ctx ends, writing the running total to out.
func (h *Hammer) Run(ctx context.Context, out io.Writer) error {
	var group sync.WaitGroup
	for range h.Workers {
		group.Go(func() { h.repeat(ctx, h.get) })
	}
	if h.Held != "" {
		group.Go(func() { h.hold(ctx) })
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
func (h *Hammer) repeat(ctx context.Context, request func(context.Context) error) {
	for ctx.Err() == nil {
		err := request(ctx)
		if ctx.Err() != nil {
			return
		}
		h.note(err, func(c *hammerCount) { c.Requests++ })
		time.Sleep(pause)
	}
}

func (h *Hammer) note(err error, add func(*hammerCount)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	add(&h.count)
	if err == nil {
		return
	}
	h.count.Failures++
	if h.count.Error == "" {
		h.count.Error = fmt.Sprintf("%s: %v", time.Now().Format(time.StampMilli), err)
	}
}

func (h *Hammer) get(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
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
	for ctx.Err() == nil {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", h.Held)
		if err == nil {
			lines := bufio.NewReader(conn)
			for err == nil && ctx.Err() == nil {
				err = exchangeLine(conn, lines)
				h.note(err, func(c *hammerCount) { c.Held++ })
				time.Sleep(pause)
			}
			conn.Close()
		} else if ctx.Err() == nil {
			h.note(err, func(c *hammerCount) { c.Held++ })
			time.Sleep(pause)
		}
	}
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
