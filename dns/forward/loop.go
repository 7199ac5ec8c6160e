package forward

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// loopZone is the parent of the names that find loops: no server has it.
const loopZone = ".loop.skep."

// Loops finds upstream servers that ask this server again: each gets a question for a name of its own, and where that comes
// back, the server is skipped. It is safe for concurrent use.
type Loops struct {
	logger *slog.Logger
	mu     sync.Mutex
	asked  map[string]*upstream
}

// NewLoops returns a detector that warns through logger.
func NewLoops(logger *slog.Logger) *Loops {
	return &Loops{logger: logger, asked: map[string]*upstream{}}
}

func (l *Loops) probe(ctx context.Context, u *upstream) {
	name := strings.ToLower(rand.Text()) + loopZone
	l.mu.Lock()
	l.asked[name] = u
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	_, _ = u.ask(ctx, new(dns.Msg).SetQuestion(name, dns.TypeHINFO)) // only whether the question comes back matters
	select {
	case <-ctx.Done():
	case <-time.After(Budget / 4): // it may still be on its way
	}
	l.mu.Lock()
	delete(l.asked, name)
	l.mu.Unlock()
}

// Seen is called with the names that clients ask for (lower case), and says whether this one was a probe.
func (l *Loops) Seen(name string) bool {
	if !strings.HasSuffix(name, loopZone) {
		return false
	}
	l.mu.Lock()
	u := l.asked[name]
	l.mu.Unlock()
	if u != nil && u.loops.CompareAndSwap(false, true) {
		l.logger.Warn("upstream DNS server asks this server again and is skipped; configure another", "server", u.String())
	}
	return true
}
