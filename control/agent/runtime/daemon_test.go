package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skep-io/skep/control/agent/container"
	"golang.org/x/sys/unix"
)

func TestContainersSurviveContainerd(t *testing.T) {
	n := newNode(t)
	t.Cleanup(func() { n.Close() })
	id := n.run("runs", nil, "/bin/sh", "-c", "sleep 1; echo late; exit 6")
	pid := n.daemon.pid()
	if pid == 0 {
		t.Fatal("no pid")
	}
	if err := endProcess(pid, unix.SIGKILL, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureContainerd(t.Context(), n.daemon); err != nil {
		t.Fatal(err)
	}
	if again, err := EnsureContainerd(t.Context(), n.daemon); err != nil || again != n.config.Address {
		t.Errorf("second: %s, %v", again, err)
	}
	if s := n.await(id); s.ExitCode != 6 || s.State != container.Exited {
		t.Errorf("status %+v", s)
	}
	if text := n.log(id); !strings.Contains(text, "F late") {
		t.Errorf("log %q", text)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	n := newNode(t)
	n.run("one", nil, "/bin/sleep", "1000")
	n.run("two", nil, "/bin/sleep", "1000")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := StopContainerd(t.Context(), n.daemon, n.config); err != nil {
			t.Fatal(err)
		}
	}
	if pids := n.daemon.shims(); len(pids) > 0 || n.daemon.pid() != 0 {
		t.Errorf("shims %v, containerd %d", pids, n.daemon.pid())
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), n.dir) {
		t.Errorf("mounts below %s remain, %v", n.dir, err)
	}
	if found, _ := filepath.Glob("/sys/fs/cgroup/*" + n.parent); len(found) > 0 {
		t.Errorf("cgroups %v", found)
	}
}

func TestMissingContainerd(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := EnsureContainerd(t.Context(), Daemon{DataDir: t.TempDir(), RunDir: t.TempDir()})
	if !errors.Is(err, ErrNoContainerd) || !strings.Contains(err.Error(), "apt-get install containerd runc") {
		t.Error(err)
	}
}
