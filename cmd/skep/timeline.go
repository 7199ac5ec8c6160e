package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// milestone is one thing that became ready while a node starts.
type milestone struct {
	// Name is one of the constants below.
	Name string `json:"name"`
	// Ms is the time since the first skep process of this start was executed.
	Ms int64 `json:"ms"`
	// Detail is for people.
	Detail string `json:"detail,omitempty"`
	// Error ends the timeline.
	Error string `json:"error,omitempty"`
}

// The milestones of a start.
const (
	keysReady       = "keys"
	storeReady      = "etcd"
	apiReady        = "API server"
	controllerReady = "controllers"
	containerdReady = "containerd"
	networkReady    = "network"
	dnsReady        = "DNS"
	nodeReady       = "node"
	nodesReady      = "nodes"
	joined          = "membership"
	pluginReady     = "CNI plugin"
)

// lastMilestone is the one after which everything that was asked for is there.
func (c nodeConfig) lastMilestone() string {
	switch {
	case !c.agent:
		return apiReady
	case c.foreign != nil:
		return pluginReady
	case c.nodes > 1:
		return nodesReady
	}
	return nodeReady
}

// timeline reports milestones, to people or to the process that waits for this one. It is safe for concurrent use.
type timeline struct {
	mu      sync.Mutex
	started time.Duration // boot time at exec
	report  func(milestone)
}

func (t *timeline) reach(name, detail string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report(milestone{Name: name, Ms: (bootTime() - t.started).Milliseconds(), Detail: detail})
}

func (t *timeline) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report(milestone{Error: err.Error()})
}

// printMilestone writes one line for people.
func printMilestone(out io.Writer, m milestone) {
	fmt.Fprintf(out, "%7.3f s  %-12s ready  %s\n", float64(m.Ms)/1000, m.Name, m.Detail)
}

// startedEnv hands the boot time at which the waiting process was executed to the one that it starts, in nanoseconds.
const startedEnv = "SKEP_STARTED"

// timelineFD is where a detached node reports to the process that started it, one milestone a line of JSON.
const timelineFD = 3

// newTimeline reports to people on out, or to the waiting process where there is one.
func newTimeline(out io.Writer, detached bool) *timeline {
	t := &timeline{started: execTime(), report: func(m milestone) {
		if m.Error == "" {
			printMilestone(out, m)
		}
	}}
	if !detached {
		return t
	}
	if ns, err := strconv.ParseInt(os.Getenv(startedEnv), 10, 64); err == nil {
		t.started = time.Duration(ns)
	}
	unix.CloseOnExec(timelineFD)
	pipe := json.NewEncoder(os.NewFile(timelineFD, "timeline"))
	// Nobody reads any more once the node is ready; that is no failure.
	t.report = func(m milestone) { _ = pipe.Encode(m) }
	return t
}

// errTimelineEnded says that the node ended before it was ready.
var errTimelineEnded = errors.New("the node ended before it was ready")

// follow reads milestones from r and hands them to seen until the last one is reached. Returns the node's own error if it reports one.
func follow(r io.Reader, last string, seen func(milestone)) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var m milestone
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return fmt.Errorf("read timeline: %w", err)
		}
		if m.Error != "" {
			return errors.New(m.Error)
		}
		seen(m)
		if m.Name == last {
			return nil
		}
	}
	return errTimelineEnded
}

// bootTime is the time since boot.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// execTime is the boot time at which this process started, from proc(5) stat field 22, whose unit is 1/100 s. Where it
// cannot be read, now will do.
func execTime() time.Duration {
	data, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return bootTime()
	}
	// The second field, the command's name, may hold blanks and ends in a parenthesis.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return bootTime()
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return bootTime()
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
