package runtime

import (
	"context"
	"sync"

	"github.com/skep-io/skep/control/agent/container"
)

// hub hands events to subscribers. The zero value is ready.
type hub struct {
	mu     sync.Mutex
	subs   map[*subscriber]struct{}
	closed bool
}

// subscriber has a queue without bound, so that a slow one loses nothing and delays nobody.
type subscriber struct {
	out   chan container.Event
	wake  chan struct{}
	queue []container.Event
}

// Subscribe returns the events from now on. The channel is closed when ctx ends or the runtime is closed.
func (r *Runtime) Subscribe(ctx context.Context) <-chan container.Event {
	s := &subscriber{out: make(chan container.Event), wake: make(chan struct{}, 1)}
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	if r.hub.closed {
		close(s.out)
		return s.out
	}
	if r.hub.subs == nil {
		r.hub.subs = map[*subscriber]struct{}{}
	}
	r.hub.subs[s] = struct{}{}
	go r.hub.serve(ctx, r.ctx, s)
	return s.out
}

func (h *hub) serve(ctx, closed context.Context, s *subscriber) {
	defer close(s.out)
	defer func() {
		h.mu.Lock()
		delete(h.subs, s)
		h.mu.Unlock()
	}()
	for {
		h.mu.Lock()
		queue := s.queue
		s.queue = nil
		h.mu.Unlock()
		for _, e := range queue {
			select {
			case s.out <- e:
			case <-ctx.Done():
				return
			case <-closed.Done():
				return
			}
		}
		if len(queue) > 0 {
			continue
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		case <-closed.Done():
			return
		}
	}
}

func (h *hub) publish(e container.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.queue = append(s.queue, e)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (h *hub) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
}
