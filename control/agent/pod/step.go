// Package pod runs the pods of a node. Step is the whole lifecycle as one pure function from what is observed to what is to be
// done and reported; a worker goroutine for each pod calls it whenever something changed and carries its actions out.
package pod

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/container"
)

// keepDead is how many dead containers of a name stay besides the newest one, for `logs --previous` and lastState.
const keepDead = 1

// Step decides what to do next for a pod and what to report. It has no state and no side effect: calling it again with the same
// view gives the same plan, and an action that is in flight shows as busy in the view, so it is not asked for twice.
func Step(p *corev1.Pod, v *View) Plan {
	var plan Plan
	switch {
	case v.Rejected != nil:
		plan.finish(p, v)
	case ending(p, v):
		plan.stopAll(p, v, nil)
		if !anyAlive(p, v) && len(v.Busy) == 0 {
			plan.finish(p, v)
		}
	case over(p, v):
		plan.stopSidecars(p, v, nil)
		if !anyAlive(p, v) && len(v.Busy) == 0 {
			plan.finish(p, v)
		}
	default:
		plan.advance(p, v)
	}
	plan.prune(v)
	plan.deadline(p, v)
	plan.Status = status(p, v)
	return plan
}

// ending says that the pod must not run any more, whatever its containers do.
func ending(p *corev1.Pod, v *View) bool {
	return v.Gone || p.DeletionTimestamp != nil || pastDeadline(p, v) ||
		p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
}

func pastDeadline(p *corev1.Pod, v *View) bool {
	t, ok := deadlineOf(p, v)
	return ok && !v.Now.Before(t)
}

func deadlineOf(p *corev1.Pod, v *View) (time.Time, bool) {
	if p.Spec.ActiveDeadlineSeconds == nil || v.StartTime.IsZero() {
		return time.Time{}, false
	}
	return v.StartTime.Add(time.Duration(*p.Spec.ActiveDeadlineSeconds) * time.Second), true
}

func (plan *Plan) deadline(p *corev1.Pod, v *View) {
	if t, ok := deadlineOf(p, v); ok && v.Now.Before(t) && !plan.Done {
		plan.wakeAt(t)
	}
}

// over says that the containers have come to their end by themselves and none is to be started again.
func over(p *corev1.Pod, v *View) bool {
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		s := v.newest(c.Name)
		if !restartable(c) && s != nil && s.State == container.Exited && s.ExitCode != 0 && !shouldRestart(p, c, s.ExitCode) {
			return true
		}
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		s := v.newest(c.Name)
		if s == nil || s.State != container.Exited || shouldRestart(p, c, s.ExitCode) {
			return false
		}
	}
	return true
}

// anyAlive says that some container of the pod may still have a process, in the spec or not.
func anyAlive(_ *corev1.Pod, v *View) bool {
	for name := range v.Containers {
		if v.alive(name) {
			return true
		}
	}
	return false
}

// finish tears down what the dead pod still holds, and then lets the API forget it if its deletion was asked for. The network
// goes only after the last process, so a process never loses it while it shuts down.
func (plan *Plan) finish(p *corev1.Pod, v *View) {
	if v.busy() {
		return
	}
	if !v.Sandbox.Removed {
		plan.add(Action{Type: TearDownSandbox})
		return
	}
	if v.Gone {
		for name, list := range v.Containers {
			for _, c := range list {
				plan.add(Action{Type: RemoveContainer, Container: name, ID: c.ID})
			}
		}
		plan.Done = len(plan.Actions) == 0
		return
	}
	if p.DeletionTimestamp != nil {
		plan.add(Action{Type: DeletePod})
	}
}

// stopAll ends every container: first the regular ones, then the sidecars, last declared first, so that a sidecar serves the
// containers that were started after it to their end.
func (plan *Plan) stopAll(p *corev1.Pod, v *View, grace *int64) {
	waits := false
	for i := range p.Spec.Containers {
		waits = plan.stop(p, v, &p.Spec.Containers[i], "", grace) || waits
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; !restartable(c) {
			waits = plan.stop(p, v, c, "", grace) || waits
		}
	}
	if !waits {
		plan.stopSidecars(p, v, grace)
	}
}

func (plan *Plan) stopSidecars(p *corev1.Pod, v *View, grace *int64) {
	for i := len(p.Spec.InitContainers) - 1; i >= 0; i-- {
		if c := &p.Spec.InitContainers[i]; restartable(c) && plan.stop(p, v, c, "", grace) {
			return
		}
	}
}

// stop asks for the end of a container and says whether there is something to wait for.
func (plan *Plan) stop(p *corev1.Pod, v *View, c *corev1.Container, why string, grace *int64) bool {
	if v.Busy[c.Name] != "" {
		return true
	}
	waits := false
	for _, s := range v.Containers[c.Name] {
		if s.State != container.Running {
			continue
		}
		message := "Stopping container " + c.Name
		if why != "" {
			message = fmt.Sprintf("Container %s %s, will be restarted", c.Name, why)
		}
		plan.add(Action{Type: StopContainer, Container: c.Name, ID: s.ID, Message: message, Grace: graceOf(p, grace)})
		waits = true
	}
	return waits
}

// graceOf is the time that a container gets to end, in seconds.
func graceOf(p *corev1.Pod, override *int64) int64 {
	switch {
	case p.DeletionGracePeriodSeconds != nil && p.DeletionTimestamp != nil:
		return *p.DeletionGracePeriodSeconds
	case override != nil:
		return *override
	case p.Spec.TerminationGracePeriodSeconds != nil:
		return *p.Spec.TerminationGracePeriodSeconds
	}
	return corev1.DefaultTerminationGracePeriodSeconds
}

// advance takes a live pod one step further: sandbox, then init containers one by one, then the rest.
func (plan *Plan) advance(p *corev1.Pod, v *View) {
	if !v.Sandbox.Ready {
		plan.prepare(v)
		return
	}
	if !plan.initialize(p, v) {
		return
	}
	for i := range p.Spec.Containers {
		if !plan.keep(p, v, &p.Spec.Containers[i]) {
			// The next container waits for this one's start, postStart hook included: users rely on the order.
			return
		}
	}
}

func (plan *Plan) prepare(v *View) {
	switch {
	case v.Sandbox.Busy:
	case v.Now.Before(v.Sandbox.RetryAt):
		plan.wakeAt(v.Sandbox.RetryAt)
	default:
		plan.add(Action{Type: PrepareSandbox})
	}
}

// initialize runs the init containers in order and says whether the regular containers may run. Once a regular container has
// been created, init containers are history; sidecars are still kept running.
func (plan *Plan) initialize(p *corev1.Pod, v *View) bool {
	begun := regularBegun(p, v)
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if restartable(c) {
			plan.keep(p, v, c)
			if s := v.newest(c.Name); !begun && (s == nil || !v.running(c.Name) || !v.Health[s.ID].Started) {
				return false
			}
			continue
		}
		if begun {
			continue
		}
		if s := v.newest(c.Name); s != nil && s.State == container.Exited && s.ExitCode == 0 {
			continue
		}
		plan.keep(p, v, c)
		return false
	}
	return true
}

func regularBegun(p *corev1.Pod, v *View) bool {
	for i := range p.Spec.Containers {
		if v.newest(p.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

// keep starts, restarts or stops one container as its state and probes ask. It returns false while a start is in flight.
func (plan *Plan) keep(p *corev1.Pod, v *View, c *corev1.Container) bool {
	switch v.Busy[c.Name] {
	case OpStart:
		return false
	case OpStop:
		return true
	}
	s := v.newest(c.Name)
	switch {
	case s == nil:
		return plan.start(v, c, firstAttempt(p, c.Name))
	case s.State == container.Created:
		// A start that was cut short by a crash of the agent: the created container never ran, a new one replaces it.
		return plan.start(v, c, s.Attempt+1)
	case s.State == container.Running:
		if h := v.Health[s.ID]; h.Failed != "" {
			plan.stop(p, v, c, failure(h.Failed), h.Grace)
		}
		return true
	case !shouldRestart(p, c, s.ExitCode):
		return true
	}
	return plan.restart(p, v, c, s)
}

func failure(c Cause) string {
	switch c {
	case CausePostStart:
		return "failed post-start hook"
	default:
		return fmt.Sprintf("failed %s probe", c)
	}
}

// restart starts a container that ended, unless it is held back.
func (plan *Plan) restart(p *corev1.Pod, v *View, c *corev1.Container, s *container.Status) bool {
	b := v.Backoff[c.Name]
	if t, held := b.until(s.FinishedAt, v.Now); held {
		plan.wakeAt(t)
		if w, ok := v.Waiting[c.Name]; ok && v.Now.Before(w.Since.Add(settle)) {
			plan.wakeAt(w.Since.Add(settle))
		}
		plan.add(Action{Type: BackOff, Container: c.Name, ID: s.ID, Message: fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, fullName(p))})
		return true
	}
	return plan.start(v, c, s.Attempt+1)
}

// start asks for a start, unless the last one failed too recently. It returns false when a start was asked for.
func (plan *Plan) start(v *View, c *corev1.Container, attempt uint32) bool {
	if w, ok := v.Waiting[c.Name]; ok {
		if settled := w.Since.Add(settle); w.LaterReason != "" && v.Now.Before(settled) {
			plan.wakeAt(settled)
		}
		if v.Now.Before(w.RetryAt) {
			plan.wakeAt(w.RetryAt)
			return true
		}
	}
	plan.add(Action{Type: StartContainer, Container: c.Name, Attempt: attempt})
	return false
}

// firstAttempt continues the count that the API remembers, for a container whose record the runtime has lost.
func firstAttempt(p *corev1.Pod, name string) uint32 {
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for i := range list {
			if s := &list[i]; s.Name == name && s.ContainerID != "" {
				return uint32(s.RestartCount) + 1
			}
		}
	}
	return 0
}

// prune removes dead containers beyond those that are kept for their logs and last state.
func (plan *Plan) prune(v *View) {
	for name, list := range v.Containers {
		if v.Busy[name] != "" {
			continue
		}
		for i := 1 + keepDead; i < len(list); i++ {
			if list[i].State != container.Running {
				plan.add(Action{Type: RemoveContainer, Container: name, ID: list[i].ID})
			}
		}
	}
}

func fullName(p *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID)
}
