package runtime

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/log"
)

func TestJoinsNamespaces(t *testing.T) {
	n := newNode(t)
	t.Cleanup(func() { n.Close() })
	holder := exec.Command("/usr/bin/busybox", "sleep", "1000")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	path := func(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", holder.Process.Pid, kind) }
	id := n.run("joins", func(c *container.Config) {
		c.NetNS, c.UTSNS, c.IPCNS = path("net"), path("uts"), path("ipc")
		c.Security.SupplementalGroups = []int64{4242}
	}, "/bin/sh", "-c", "busybox readlink /proc/self/ns/net; id -G; busybox sleep 0.3; echo last")
	want, err := os.Readlink(path("net"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := n.Status(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	running := func() bool {
		now, err := n.Status(t.Context(), id)
		return err == nil && now.State == container.Running
	}
	var out bytes.Buffer
	if err := log.Read(t.Context(), s.LogPath, log.Options{Follow: true}, running, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.HasPrefix(got, want+"\n") || !strings.Contains(got, "4242") || !strings.HasSuffix(got, "last\n") {
		t.Errorf("%q, want namespace %s", got, want)
	}
}
