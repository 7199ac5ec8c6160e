package pod

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// reporter writes one pod's status to the API, one write at a time and in order; of several that wait only the newest is
// written. It runs only while there is something to write.
type reporter struct {
	// ctx ends all writing; requests is longer lived, so that a write that is under way is not torn off by the pod's end.
	ctx, requests context.Context
	cfg           *Config
	log           *slog.Logger
	cancel        context.CancelFunc

	mu sync.Mutex // guards what follows
	// base is the newest object that the API has shown.
	base *corev1.Pod
	// want is the status to write, nil for none; final asks for the deletion after it.
	want    *corev1.PodStatus
	final   bool
	running bool
	// waiting says that a status which nobody waits for is held back for a moment.
	waiting bool
}

// quiet is how long a pod that is being prepared stays silent: most run by then, and one write tells all.
const quiet = 150 * time.Millisecond

func newReporter(ctx context.Context, cfg *Config, p *corev1.Pod, log *slog.Logger) *reporter {
	own, cancel := context.WithCancel(ctx)
	return &reporter{ctx: own, requests: ctx, cancel: cancel, cfg: cfg, base: p, log: log}
}

// saw takes in an object of the API.
func (r *reporter) saw(p *corev1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.adopt(p)
}

func (r *reporter) adopt(p *corev1.Pod) {
	if newer(p.ResourceVersion, r.base.ResourceVersion) {
		r.base = p
	}
}

// newer compares resource versions, which the API defines as growing integers. What is no integer counts as newer.
func newer(a, b string) bool {
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	return errX != nil || errY != nil || x > y
}

// report asks for a status to be written, if it differs from what the API has.
func (r *reporter) report(s corev1.PodStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.want = &s
	if r.running || !preparing(&r.base.Status, &s) {
		r.begin()
		return
	}
	if !r.waiting {
		r.waiting = true
		time.AfterFunc(quiet, r.flush)
	}
}

// flush writes what was held back.
func (r *reporter) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = false
	r.begin()
}

// preparing says that a status tells only that the pod is on its way, with nothing run yet and nothing gone wrong.
func preparing(old, now *corev1.PodStatus) bool {
	if old.Phase != corev1.PodPending || now.Phase != corev1.PodPending {
		return false
	}
	for _, s := range slices.Concat(now.InitContainerStatuses, now.ContainerStatuses) {
		if w := s.State.Waiting; w == nil || w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" || s.LastTerminationState.Terminated != nil {
			return false
		}
	}
	return true
}

// delete asks for the pod's deletion once its last status is written.
func (r *reporter) delete() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.final = true
	r.begin()
}

// close ends all writing.
func (r *reporter) close() { r.cancel() }

func (r *reporter) begin() {
	if r.running || r.want == nil && !r.final {
		return
	}
	if !r.final {
		if merged := merge(r.base, r.want); equality.Semantic.DeepEqual(merged, r.base.Status) {
			r.want = nil
			return
		}
	}
	r.running = true
	go r.write()
}

// write writes until nothing is left to write.
func (r *reporter) write() {
	wait := 100 * time.Millisecond
	for r.ctx.Err() == nil {
		err := r.writeOnce()
		switch {
		case err == nil:
			wait = 100 * time.Millisecond
			if r.idle() {
				return
			}
			continue
		case apierrors.IsNotFound(err), apierrors.IsConflict(err) && r.final:
			// Another pod of the name, or none: the informer will say so too.
			r.cancel()
			return
		}
		r.log.Warn("write pod status", "err", err)
		select {
		case <-r.ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, 10*time.Second)
	}
}

// idle ends the writing if nothing came in since.
func (r *reporter) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.want == nil && !r.final {
		r.running = false
		return true
	}
	return false
}

func (r *reporter) writeOnce() error {
	r.mu.Lock()
	base, want, final := r.base, r.want, r.final
	r.want = nil
	r.mu.Unlock()
	if want != nil {
		if err := r.patch(base, want); err != nil {
			r.mu.Lock()
			if r.want == nil {
				r.want = want
			}
			r.mu.Unlock()
			return err
		}
	}
	if !final {
		return nil
	}
	return r.remove(base)
}

func (r *reporter) remove(p *corev1.Pod) error {
	now := int64(0)
	err := r.cfg.Client.CoreV1().Pods(p.Namespace).Delete(r.requests, p.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(p.UID)),
	})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		r.mu.Lock()
		r.final = false
		r.mu.Unlock()
		return nil
	}
	return err
}

func (r *reporter) patch(base *corev1.Pod, want *corev1.PodStatus) error {
	merged := merge(base, want)
	if equality.Semantic.DeepEqual(merged, base.Status) {
		return nil
	}
	data, err := difference(base, merged)
	if err != nil {
		return err
	}
	p, err := r.cfg.Client.CoreV1().Pods(base.Namespace).Patch(r.requests, base.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.adopt(p)
	r.mu.Unlock()
	return nil
}

// merge puts the node's status into what the API has: conditions of others stay, times are as precise as the API keeps them.
func merge(base *corev1.Pod, want *corev1.PodStatus) corev1.PodStatus {
	out := *want.DeepCopy()
	out.Conditions = mergeConditions(base.Status.Conditions, want.Conditions, metav1.Now().Rfc3339Copy())
	if out.StartTime != nil {
		t := out.StartTime.Rfc3339Copy()
		out.StartTime = &t
	}
	for _, list := range [][]corev1.ContainerStatus{out.InitContainerStatuses, out.ContainerStatuses} {
		for i := range list {
			truncate(&list[i].State)
			truncate(&list[i].LastTerminationState)
		}
	}
	return out
}

func truncate(s *corev1.ContainerState) {
	if s.Running != nil {
		s.Running.StartedAt = s.Running.StartedAt.Rfc3339Copy()
	}
	if s.Terminated != nil {
		s.Terminated.StartedAt = s.Terminated.StartedAt.Rfc3339Copy()
		s.Terminated.FinishedAt = s.Terminated.FinishedAt.Rfc3339Copy()
	}
}

// difference is the patch from the API's status to the wanted one. It names the UID, so that it never reaches another pod of
// the same name.
func difference(base *corev1.Pod, want corev1.PodStatus) ([]byte, error) {
	before, err := json.Marshal(corev1.Pod{Status: base.Status})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: base.UID}, Status: want})
	if err != nil {
		return nil, err
	}
	return strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
}
