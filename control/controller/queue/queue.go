// Package queue is the loop that every controller shares: keys go in from informer events, each key is handled by one worker at a
// time, and a key whose handling failed comes back after a growing delay.
package queue

import (
	"context"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// minRetry and maxRetry bound the delay of a failed key. The minimum lets a conflict settle within one round trip of the watch.
const (
	minRetry = 5 * time.Millisecond
	maxRetry = 5 * time.Minute
)

// Queue feeds keys to a sync function. All methods are safe for concurrent use.
type Queue struct {
	name    string
	sync    func(ctx context.Context, key string) error
	logger  *slog.Logger
	pending workqueue.TypedRateLimitingInterface[string]
}

// New returns a queue that calls sync for every key added to it. The name appears in logs.
func New(name string, sync func(ctx context.Context, key string) error, logger *slog.Logger) *Queue {
	return &Queue{
		name:   name,
		sync:   sync,
		logger: logger.With("controller", name),
		pending: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](minRetry, maxRetry)),
	}
}

// Add queues a key; a key that is already waiting is not queued twice.
func (q *Queue) Add(key string) { q.pending.Add(key) }

// AddAfter queues a key once the delay has passed.
func (q *Queue) AddAfter(key string, delay time.Duration) { q.pending.AddAfter(key, delay) }

// AddObject queues the namespace/name key of an object as informers deliver it, tombstones included.
func (q *Queue) AddObject(obj any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		q.logger.Error("event without a key", "error", err)
		return
	}
	q.pending.Add(key)
}

// Handler queues every object that an informer reports, whatever happened to it.
func (q *Queue) Handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    q.AddObject,
		UpdateFunc: func(_, obj any) { q.AddObject(obj) },
		DeleteFunc: q.AddObject,
	}
}

// Run waits for the informers and then handles keys with the given number of workers until ctx ends; it returns after the last
// worker did.
func (q *Queue) Run(ctx context.Context, workers int, synced ...cache.DoneChecker) {
	defer q.pending.ShutDown()
	if !cache.WaitFor(ctx, "", synced...) {
		return
	}
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for q.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	q.pending.ShutDown()
	group.Wait()
}

func (q *Queue) next(ctx context.Context) bool {
	key, stopped := q.pending.Get()
	if stopped {
		return false
	}
	defer q.pending.Done(key)
	err := q.sync(ctx, key)
	switch {
	case err == nil:
		q.pending.Forget(key)
	case ctx.Err() != nil:
		// The process stops: the next start begins with every object anyway.
	default:
		// A conflict or an object that is gone already is how optimistic writes look from here, not news for an operator.
		level := slog.LevelWarn
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			level = slog.LevelDebug
		}
		q.logger.Log(ctx, level, "sync will be retried", "key", key, "error", err)
		q.pending.AddRateLimited(key)
	}
	return true
}

// Object returns the T in what an informer's delete handler got: the object itself or the tombstone around its last known state.
func Object[T any](obj any) (T, bool) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	typed, ok := obj.(T)
	return typed, ok
}
