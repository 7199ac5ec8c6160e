package pod

import (
	"fmt"
	"time"
)

// The restart back-off of containers, as the API documents it.
const (
	backoffFirst = 10 * time.Second
	backoffMost  = 5 * time.Minute
	backoffReset = 2 * backoffMost
)

// Backoff is the memory of one container's restarts. The zero value means that it was never restarted.
type Backoff struct {
	// Delay is how long after its end the container stays down.
	Delay time.Duration
	// Last is when the container was last restarted.
	Last time.Time
}

// until returns when a container that ended at end may start again, and whether that is still to come.
func (b Backoff) until(end, now time.Time) (time.Time, bool) {
	if b.Delay == 0 || b.expired(end) {
		return time.Time{}, false
	}
	t := end.Add(b.Delay)
	return t, now.Before(t)
}

// expired says that the container ran long enough for its restarts to be forgotten.
func (b Backoff) expired(end time.Time) bool { return end.Sub(b.Last) > backoffReset }

// next returns the back-off after a restart, now, of a container that ended at end.
func (b Backoff) next(end, now time.Time) Backoff {
	if b.Delay == 0 || b.expired(end) {
		return Backoff{Delay: backoffFirst, Last: now}
	}
	return Backoff{Delay: min(2*b.Delay, backoffMost), Last: now}
}

func (b Backoff) message(container, pod string) string {
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", b.Delay, container, pod)
}
