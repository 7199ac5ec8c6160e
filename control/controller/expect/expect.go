// Package expect remembers what a controller has asked the API server for and has not yet seen in its watch, so that it does not
// act twice on a cache that lags behind its own writes.
package expect

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Timeout is how long an unseen write blocks a key. A watch event that never comes (the object was created and deleted between
// two lists) must not block for ever.
const Timeout = 5 * time.Minute

// Expectations holds, per key, the creations and deletions in flight. It is safe for concurrent use; the zero value is ready.
type Expectations struct {
	mu   sync.Mutex
	keys map[string]*inFlight
}

type inFlight struct {
	created int
	deleted map[types.UID]struct{}
	since   time.Time
}

// Expect starts a round for key: creations still to be seen and the UIDs of objects whose deletion is still to be seen.
// Call it before the writes are sent, since an event can be faster than a response.
func (e *Expectations) Expect(key string, creations int, deletions []types.UID) {
	flight := &inFlight{created: creations, deleted: make(map[types.UID]struct{}, len(deletions)), since: time.Now()}
	for _, uid := range deletions {
		flight.deleted[uid] = struct{}{}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.keys == nil {
		e.keys = map[string]*inFlight{}
	}
	e.keys[key] = flight
}

// Created says that creations of key were seen, or will never be because they failed.
func (e *Expectations) Created(key string, count int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if flight := e.keys[key]; flight != nil {
		flight.created = max(0, flight.created-count)
	}
}

// Deleted says that the deletion of uid was seen, or failed.
func (e *Expectations) Deleted(key string, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if flight := e.keys[key]; flight != nil {
		delete(flight.deleted, uid)
	}
}

// Satisfied says whether the cache has caught up with all writes of key, or was given Timeout to do so.
func (e *Expectations) Satisfied(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	flight := e.keys[key]
	if flight == nil {
		return true
	}
	return flight.created == 0 && len(flight.deleted) == 0 || time.Since(flight.since) > Timeout
}

// Forget drops the key, whose object is gone.
func (e *Expectations) Forget(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.keys, key)
}
