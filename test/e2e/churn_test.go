package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// count is what the load pod prints every second.
type count struct {
	Requests, Held, Failures int
	Error                    string
}

// hammer starts a pod that loads the Service until the returned function is called, which gives the totals.
func hammer(t *testing.T, ns, ip string, held bool) func() count {
	t.Helper()
	args := []string{"bench", "hammer", "--url", "http://" + ip + "/"}
	if held {
		args = append(args, "--held", ip+":8081")
	}
	must(t)(shared.pipe(loadPod("hammer", args...), "apply", "-n", ns, "-f", "-"))
	must(t)(shared.skep("wait", "-n", ns, "--for=condition=Ready", "pod/hammer", "--timeout=30s"))
	begun := lastCount(t, ns, func(c count) bool { return c.Requests > 0 })
	if begun.Failures > 0 {
		t.Fatalf("the load failed before anything happened: %+v", begun)
	}
	return func() count {
		// One more second of load, so that what was done last counts too.
		now := lastCount(t, ns, func(count) bool { return true })
		return lastCount(t, ns, func(c count) bool { return c.Requests > now.Requests })
	}
}

// lastCount reads the load's totals until they are good.
func lastCount(t *testing.T, ns string, good func(count) bool) count {
	t.Helper()
	var c count
	var last error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		// A node that has just started may not know its pods yet.
		out, err := shared.skep("logs", "-n", ns, "hammer", "--tail=1")
		if last = err; err != nil || strings.TrimSpace(out) == "" {
			continue
		}
		c = count{}
		if err := json.Unmarshal([]byte(out), &c); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if good(c) {
			return c
		}
	}
	t.Fatalf("the load stands still at %+v: %v", c, last)
	return c
}

func TestRollingUpdateLosesNothing(t *testing.T) {
	ns, _, ip := demo(t, 30184)
	done := hammer(t, ns, ip, false)
	for range 2 {
		must(t)(shared.skep("rollout", "restart", "deployment/echo", "-n", ns))
		must(t)(shared.skep("rollout", "status", "deployment/echo", "-n", ns, "--timeout=60s"))
	}
	if c := done(); c.Failures > 0 {
		t.Errorf("failed requests during rolling updates: %+v", c)
	} else {
		t.Logf("%d requests, none failed", c.Requests)
	}
}

// kills is how often TestKillLosesNothing kills the node; SKEP_KILLS sets it.
func kills(t *testing.T) int {
	s := os.Getenv("SKEP_KILLS")
	if s == "" {
		return 5
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestKillLosesNothing(t *testing.T) {
	ns, _, ip := demo(t, 30185)
	done := hammer(t, ns, ip, true)
	ids := func() string {
		return must(t)(shared.skep("get", "pods", "-n", ns, "--sort-by=.metadata.name", "-o", "jsonpath={.items[*].status.containerStatuses[*].containerID}"))
	}
	before := ids()
	for i := range kills(t) {
		kill(t)
		if err := shared.up(); err != nil {
			t.Fatalf("start %d after a kill: %v", i+1, err)
		}
	}
	c := done()
	if c.Failures > 0 {
		t.Errorf("failed requests while the node was killed and started: %+v", c)
	}
	t.Logf("%d requests, %d on the held connection", c.Requests, c.Held)
	if after := ids(); after != before {
		t.Errorf("containers changed from %s to %s", before, after)
	}
	if got := must(t)(shared.skep("get", "service", "echo", "-n", ns, "-o", "jsonpath={.spec.clusterIP}")); got != ip {
		t.Errorf("the cluster IP changed from %s to %s", ip, got)
	}
}

// process is the number of the node's process.
func process(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(shared.dir, "run", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// otherBuild is a binary that is not the one that runs.
func otherBuild(t *testing.T) string {
	t.Helper()
	program, err := os.ReadFile(shared.binary)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "skep")
	if err := os.WriteFile(other, append(program, "another build"...), 0o755); err != nil {
		t.Fatal(err)
	}
	return other
}

// replace has a binary take over from the node's process.
func replace(t *testing.T, binary string) {
	t.Helper()
	before := process(t)
	if err := shared.start(binary, "--replace"); err != nil {
		t.Fatal(err)
	}
	after := process(t)
	if runs, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", after)); err != nil || after == before || runs != binary {
		t.Fatalf("process %d follows %d and runs %s, want %s (%v)", after, before, runs, binary, err)
	}
}

// TestReplaceLosesNothing replaces the node's process by another build, and that by the first again, under load.
func TestReplaceLosesNothing(t *testing.T) {
	ns, _, ip := demo(t, 30186)
	other := otherBuild(t)
	done := hammer(t, ns, ip, true)
	if err := shared.up(); err == nil || !strings.Contains(err.Error(), "--replace") {
		t.Errorf("a second start beside the first: %v", err)
	}
	replace(t, other)
	replace(t, shared.binary)
	if c := done(); c.Failures > 0 {
		t.Errorf("failed requests while the node was replaced: %+v", c)
	} else {
		t.Logf("%d requests, %d on the held connection, none failed", c.Requests, c.Held)
	}
}

// kill kills the node's process and waits until it is gone.
func kill(t *testing.T) {
	t.Helper()
	fd, err := unix.PidfdOpen(process(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, syscall.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000); err != nil {
		t.Fatal(err)
	}
}
