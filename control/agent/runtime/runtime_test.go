package runtime

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/image"
)

const testImage = "example.test/busybox:1"

// node is a private containerd with one image.
type node struct {
	t      *testing.T
	daemon Daemon
	config Config
	*Runtime
	events <-chan container.Event
	dir    string
	parent string
}

func newNode(t *testing.T) *node {
	t.Helper()
	// The socket's path must be short; t.TempDir's is not always.
	dir, err := os.MkdirTemp("/tmp", "skep-rt-")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir, daemon: Daemon{DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run")}}
	n.parent = fmt.Sprintf("/skep-test-%d", os.Getpid())
	t.Cleanup(func() {
		if err := StopContainerd(context.Background(), n.daemon, n.config); err != nil {
			t.Errorf("stop: %v", err)
		}
		os.RemoveAll(dir)
	})
	begun := time.Now()
	address, err := EnsureContainerd(t.Context(), n.daemon)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("containerd serves after %v", time.Since(begun))
	n.config = Config{Address: address, PodsCgroup: n.parent, StateDir: filepath.Join(dir, "run"), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	n.open()
	var archive bytes.Buffer
	spec := image.Spec{Binary: "/usr/bin/busybox", Target: "/bin/busybox", Links: []string{"/bin/sh", "/bin/sleep", "/bin/cat", "/bin/id"}, Tags: []string{testImage}}
	if err := image.Archive(&archive, spec); err != nil {
		t.Fatal(err)
	}
	if _, err := n.ImportArchive(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) open() {
	n.t.Helper()
	r, err := New(n.t.Context(), n.config)
	if err != nil {
		n.t.Fatal(err)
	}
	n.Runtime, n.events = r, r.Subscribe(n.t.Context())
	if err := r.Adopt(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) run(name string, edit func(*container.Config), command ...string) string {
	n.t.Helper()
	cfg := container.Config{
		PodUID: types.UID("uid-" + name), PodNamespace: "default", PodName: name, Name: name, Image: testImage, Command: command,
		CgroupParent: n.parent, LogPath: filepath.Join(n.dir, "log", name, "0.log"),
	}
	if edit != nil {
		edit(&cfg)
	}
	begun := time.Now()
	id, err := n.Create(n.t.Context(), cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	created := time.Now()
	if err := n.Start(n.t.Context(), id); err != nil {
		n.t.Fatal(err)
	}
	n.t.Logf("create %v start %v", created.Sub(begun), time.Since(created))
	return id
}

func (n *node) await(id string) container.Status {
	n.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		s, err := n.Status(n.t.Context(), id)
		if err != nil {
			n.t.Fatal(err)
		}
		if s.State == container.Exited {
			return s
		}
		select {
		case <-n.events:
		case <-timeout:
			n.t.Fatalf("container %s does not end", id)
		}
	}
}

func (n *node) log(id string) string {
	n.t.Helper()
	s, _ := n.Status(n.t.Context(), id)
	data, err := os.ReadFile(s.LogPath)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(data)
}

func TestContainerLifecycle(t *testing.T) {
	n := newNode(t)
	id := n.run("hello", nil, "/bin/sh", "-c", "echo out; echo err >&2; exit 3")
	s := n.await(id)
	if s.ExitCode != 3 || s.Reason != "Error" || s.FinishedAt.IsZero() || s.StartedAt.IsZero() {
		t.Errorf("status %+v", s)
	}
	if text := n.log(id); !strings.Contains(text, " stdout F out\n") || !strings.Contains(text, " stderr F err\n") {
		t.Errorf("log %q", text)
	}
	if err := n.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := n.Remove(t.Context(), id); err != nil {
		t.Errorf("second remove: %v", err)
	}

	id = n.run("sleep", nil, "/bin/sleep", "1000")
	out, _, code, err := n.ExecSync(t.Context(), id, []string{"/bin/sh", "-c", "echo hi; exit 4"}, 0)
	if err != nil || code != 4 || string(out) != "hi\n" {
		t.Errorf("exec: %q %d %v", out, code, err)
	}
	if _, _, _, err := n.ExecSync(t.Context(), id, []string{"/bin/sleep", "9"}, 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "timed out") {
		t.Errorf("exec timeout: %v", err)
	}
	if err := n.Stop(t.Context(), id, 100*time.Millisecond); err != nil {
		t.Error(err)
	}
	if s := n.await(id); s.ExitCode != 137 {
		t.Errorf("killed: %+v", s)
	}

	cfg := container.Config{PodUID: "u", Name: "bad", Image: testImage, Command: []string{"/nope"}, CgroupParent: n.parent}
	id, err = n.Create(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context(), id); err == nil || !strings.Contains(err.Error(), "/nope") {
		t.Errorf("start of a missing program: %v", err)
	}
	if s := n.await(id); s.ExitCode != 128 || s.Reason != "StartError" {
		t.Errorf("status %+v", s)
	}
	if _, err := n.EnsureImage(t.Context(), "example.test/none", corev1.PullNever, nil); err == nil {
		t.Error("absent image found")
	}
}

func TestAdoptAfterRestart(t *testing.T) {
	n := newNode(t)
	runs := n.run("runs", nil, "/bin/sh", "-c", "while read line; do :; done </dev/null; echo one; sleep 1000")
	ends := n.run("ends", nil, "/bin/sh", "-c", "sleep 0.2; exit 5")
	limit := n.run("oom", func(c *container.Config) { c.Resources.MemoryLimit = 8 << 20 }, "/bin/sh", "-c", "x=a; while :; do x=$x$x; done")
	if s := n.await(limit); !s.OOMKilled || s.Reason != "OOMKilled" {
		t.Errorf("status %+v", s)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.open()
	t.Cleanup(func() { n.Close() })
	if s := n.await(ends); s.ExitCode != 5 {
		t.Errorf("ended meanwhile: %+v", s)
	}
	if s, _ := n.Status(t.Context(), runs); s.State != container.Running || s.Pid == 0 || s.StartedAt.IsZero() {
		t.Errorf("still runs: %+v", s)
	}
	if s, _ := n.Status(t.Context(), limit); !s.OOMKilled {
		t.Errorf("recorded before: %+v", s)
	}
}
