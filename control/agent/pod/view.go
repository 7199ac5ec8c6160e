package pod

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/container"
)

// View is all that the node knows of one pod at one instant: the input of Step. Step never changes it.
type View struct {
	// Now is the instant of the observation.
	Now time.Time
	// HostIPs are the node's addresses, primary first.
	HostIPs []string
	// Rejected says why the node refuses the pod, nil when it does not.
	Rejected *Rejection
	// Gone says that the API no longer has the pod: what runs is stopped and nothing is reported.
	Gone bool
	// StartTime is when the node first saw the pod.
	StartTime time.Time

	// Sandbox is the pod's network, namespaces and volumes.
	Sandbox Sandbox
	// Containers holds the runtime's containers by name, the newest attempt first.
	Containers map[string][]container.Status
	// Waiting holds, by container name, why the last attempt to start came to nothing.
	Waiting map[string]Waiting
	// Health holds the probes' verdict by container id.
	Health map[string]Health
	// Backoff holds the restart back-off by container name.
	Backoff map[string]Backoff
	// Busy holds the operation in flight by container name.
	Busy map[string]Operation
	// Terminations holds termination messages by container id.
	Terminations map[string]string
}

// Sandbox is the state of what all containers of a pod share.
type Sandbox struct {
	// Ready says that containers can be created.
	Ready bool
	// Busy says that the sandbox is being prepared or torn down.
	Busy bool
	// Removed says that the sandbox has been torn down for good.
	Removed bool
	// RetryAt is when to try again after a failure.
	RetryAt time.Time
	// IPs are the pod's addresses, primary first.
	IPs []string
}

// Rejection is why a node does not run a pod.
type Rejection struct{ Reason, Message string }

// Waiting is why a container is not running, shown in its waiting state.
type Waiting struct {
	// Reason and Message are what the status shows until Later; Image pulls then show their back-off instead.
	Reason, Message string
	// Later are the reason and message shown from Since+settle on; empty means no change.
	LaterReason, LaterMessage string
	Since                     time.Time
	// RetryAt is when to try again.
	RetryAt time.Time
}

// settle is for how long a failed pull shows as the error before it shows as the back-off.
const settle = 2 * time.Second

// Health is what the probes of one container say.
type Health struct {
	// Started says that the startup probe has succeeded, or that there is none and postStart has finished.
	Started bool
	// Ready says that the readiness probe succeeds, or that there is none.
	Ready bool
	// Failed names the probe that asks for the container's end ("liveness", "startup"), empty for none.
	Failed Cause
	// Grace replaces the pod's termination grace for this end; nil keeps it.
	Grace *int64
}

// Cause is why a container is stopped.
type Cause string

// The causes that a probe or a hook gives.
const (
	CauseLiveness  Cause = "liveness"
	CauseStartup   Cause = "startup"
	CausePostStart Cause = "postStart"
)

// Operation is what is being done to a container.
type Operation string

// The operations.
const (
	OpStart Operation = "start"
	OpStop  Operation = "stop"
)

// ActionType is what an Action does.
type ActionType string

// The actions of a plan.
const (
	// PrepareSandbox makes network, namespaces, cgroup, files and volumes ready.
	PrepareSandbox ActionType = "PrepareSandbox"
	// StartContainer pulls, creates and starts Container with Attempt.
	StartContainer ActionType = "StartContainer"
	// StopContainer runs the preStop hook of Container and stops ID within Grace.
	StopContainer ActionType = "StopContainer"
	// RemoveContainer forgets the dead container ID.
	RemoveContainer ActionType = "RemoveContainer"
	// TearDownSandbox undoes PrepareSandbox.
	TearDownSandbox ActionType = "TearDownSandbox"
	// DeletePod tells the API that nothing of the pod is left on this node.
	DeletePod ActionType = "DeletePod"
	// BackOff tells the user that Container is held back.
	BackOff ActionType = "BackOff"
)

// Action is one thing to do.
type Action struct {
	Type      ActionType
	Container string
	ID        string
	Attempt   uint32
	// Message is told in an event.
	Message string
	// Grace is the time for StopContainer, in seconds from when the stop was first asked for.
	Grace int64
}

// Plan is what Step decides.
type Plan struct {
	Actions []Action
	// Status is the pod's status as it should be reported.
	Status corev1.PodStatus
	// Wake is when to look again if nothing happens; zero means never.
	Wake time.Time
	// Done says that nothing of the pod is left on the node.
	Done bool
}

// wakeAt keeps the earliest instant.
func (p *Plan) wakeAt(t time.Time) {
	if p.Wake.IsZero() || t.Before(p.Wake) {
		p.Wake = t
	}
}

func (p *Plan) add(a Action) { p.Actions = append(p.Actions, a) }

// newest returns the newest attempt of a container, nil when there is none.
func (v *View) newest(name string) *container.Status {
	if list := v.Containers[name]; len(list) > 0 {
		return &list[0]
	}
	return nil
}

func (v *View) running(name string) bool {
	c := v.newest(name)
	return c != nil && c.State == container.Running
}

// alive says that some attempt of the container may still have a process.
func (v *View) alive(name string) bool {
	for _, c := range v.Containers[name] {
		if c.State == container.Running {
			return true
		}
	}
	return false
}

func (v *View) busy() bool { return v.Sandbox.Busy || len(v.Busy) > 0 }
