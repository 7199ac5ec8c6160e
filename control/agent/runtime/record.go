package runtime

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/log"
)

// The labels of a container in containerd: fixed is written when it is created, state as it changes.
const (
	labelFixed = "io.skep.container"
	labelState = "io.skep.state"
	labelPod   = "io.skep.pod"
)

// maxMessage keeps a label below containerd's limit of 4096 bytes.
const maxMessage = 2048

// fixed is what never changes about a container.
type fixed struct {
	// Status holds the identity; its changing fields are zero.
	Status container.Status
	// Cgroup is the path of its own control group.
	Cgroup     string
	StopSignal string
	TTY        bool
	Stdin      bool
	StdinOnce  bool
}

// state is what changes, and must survive the process.
type state struct {
	State           container.State
	Pid             int
	Started, Ended  time.Time
	ExitCode        int32
	Signal          int32
	OOM             bool
	Reason, Message string
}

// record is one container. The state goes only forward: created, running, exited.
type record struct {
	fixed fixed
	// exited is closed once the exit is recorded, gone once the task is deleted.
	exited, gone chan struct{}

	// life serialises Start and Remove.
	life sync.Mutex

	// mu guards what follows.
	mu     sync.Mutex
	state  state
	mounts []mount.Mount
	output *log.Copier
	stdin  *stdin
	// taskKept says that the task was not deleted, since the exit could not be recorded.
	taskKept bool
}

func newRecord(f fixed) *record {
	return &record{fixed: f, exited: make(chan struct{}), gone: make(chan struct{}), state: state{State: container.Created}}
}

func (rec *record) id() string { return rec.fixed.Status.ID }

// get returns a copy of the status.
func (rec *record) get() container.Status {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	s, c := rec.fixed.Status, rec.state
	s.State, s.Pid, s.StartedAt, s.FinishedAt = c.State, c.Pid, c.Started, c.Ended
	s.ExitCode, s.Signal, s.OOMKilled, s.Reason, s.Message = c.ExitCode, c.Signal, c.OOM, c.Reason, c.Message
	return s
}

func (rec *record) set(s state) {
	rec.mu.Lock()
	rec.state = s
	rec.mu.Unlock()
}

func (rec *record) event(t container.EventType) container.Event {
	s := rec.fixed.Status
	return container.Event{Type: t, ID: s.ID, PodUID: s.PodUID, Name: s.Name}
}

func encode(v any) (string, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("container label: %w", err)
	}
	return string(data), nil
}

// decode rebuilds a record from a container's labels.
func decode(labels map[string]string) (*record, error) {
	var f fixed
	if err := json.Unmarshal([]byte(labels[labelFixed]), &f); err != nil {
		return nil, fmt.Errorf("label %s: %w", labelFixed, err)
	}
	rec := newRecord(f)
	if s := labels[labelState]; s != "" {
		if err := json.Unmarshal([]byte(s), &rec.state); err != nil {
			return nil, fmt.Errorf("label %s: %w", labelState, err)
		}
	}
	return rec, nil
}
