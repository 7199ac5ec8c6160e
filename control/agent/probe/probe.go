// Package probe asks containers whether they have started, are ready and are alive.
package probe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kind is what a probe asks.
type Kind string

// The kinds of probes.
const (
	Startup   Kind = "startup"
	Readiness Kind = "readiness"
	Liveness  Kind = "liveness"
)

func (k Kind) title() string {
	return map[Kind]string{Startup: "Startup", Readiness: "Readiness", Liveness: "Liveness"}[k]
}

// Target is the container to ask.
type Target struct {
	Container *corev1.Container
	StartedAt time.Time
	// Started says that the startup probe has succeeded before.
	Started bool
	// Address returns the IP address of the pod.
	Address func() string
	// Exec runs a command in the container and returns its output and exit code.
	Exec func(ctx context.Context, cmd []string, timeout time.Duration) ([]byte, int, error)
}

// Verdict is what a probe found.
type Verdict struct {
	Kind Kind
	// Changed says that OK has passed its threshold; otherwise only Event is to be told.
	Changed, OK bool
	// Event is the text for the user, empty for none.
	Event string
	// Grace replaces the container's termination grace, in seconds; nil keeps it.
	Grace *int64
}

// Watch runs a container's probes until ctx ends: the startup probe until it succeeds, then the others. It calls report from
// several goroutines.
func Watch(ctx context.Context, t Target, report func(Verdict)) {
	c := t.Container
	if c.StartupProbe != nil && !t.Started && !watch(ctx, t, Startup, c.StartupProbe, report) {
		return
	}
	if c.LivenessProbe != nil {
		go watch(ctx, t, Liveness, c.LivenessProbe, report)
	}
	if c.ReadinessProbe != nil {
		watch(ctx, t, Readiness, c.ReadinessProbe, report)
	}
}

// watch runs one probe. It returns true when a startup probe has succeeded, and false when ctx has ended or the verdict is
// final.
func watch(ctx context.Context, t Target, kind Kind, p *corev1.Probe, report func(Verdict)) bool {
	wait := time.Until(t.StartedAt.Add(seconds(p.InitialDelaySeconds)))
	period := max(seconds(p.PeriodSeconds), time.Second)
	if time.Since(t.StartedAt) > period {
		// After a restart of the agent all probes begin at once: spread them.
		wait = max(wait, rand.N(period))
	}
	timer := time.NewTimer(max(wait, 0))
	defer timer.Stop()
	var row run
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
		}
		begun := time.Now()
		output, err := once(ctx, t, p)
		if ctx.Err() != nil {
			return false
		}
		v := Verdict{Kind: kind, OK: err == nil, Event: describe(kind, output, err)}
		v.Changed = row.add(v.OK, p)
		if !v.OK {
			v.Grace = p.TerminationGracePeriodSeconds
		}
		report(v)
		if v.Changed && kind != Readiness && (!v.OK || kind == Startup) {
			return v.OK
		}
		timer.Reset(max(period-time.Since(begun), time.Millisecond))
	}
}

// run counts equal results in a row.
type run struct {
	ok    bool
	count int32
}

// add says whether the result has come to its threshold.
func (r *run) add(ok bool, p *corev1.Probe) bool {
	if ok != r.ok {
		r.ok, r.count = ok, 0
	}
	r.count++
	threshold := max(p.FailureThreshold, 1)
	if ok {
		threshold = max(p.SuccessThreshold, 1)
	}
	return r.count == threshold
}

func describe(kind Kind, output string, err error) string {
	switch {
	case err == nil:
		return ""
	case output == "":
		return fmt.Sprintf("%s probe failed: %v", kind.title(), err)
	}
	return fmt.Sprintf("%s probe failed: %s", kind.title(), output)
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }
