package load_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
)

func open(t *testing.T, dir string) *load.Objects {
	t.Helper()
	o, err := load.Open(config(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// cgroup makes a cgroup2 directory of this test's own.
func cgroup(t *testing.T) string {
	t.Helper()
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	dir := filepath.Join(root, fmt.Sprintf("skep-test-%d-%s", os.Getpid(), t.Name()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	return dir
}

// attached lists the programs attached to a hook of a cgroup.
func attached(t *testing.T, cgroup string, attach ebpf.AttachType) []link.AttachedProgram {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	result, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: attach})
	if err != nil {
		t.Fatal(err)
	}
	return result.Programs
}

func TestAttachSockOutlivesItsProcessAndIsReplaced(t *testing.T) {
	dir, cg := pins(t), cgroup(t)
	first := open(t, dir)
	if err := first.AttachSock(cg); err != nil {
		t.Fatal(err)
	}
	before := attached(t, cg, ebpf.AttachCGroupInet4Connect)
	first.Close()
	second := open(t, dir)
	if err := second.AttachSock(cg); err != nil {
		t.Fatal(err)
	}
	after := attached(t, cg, ebpf.AttachCGroupInet4Connect)
	if len(before) != 1 || len(after) != 1 || before[0].ID == after[0].ID {
		t.Errorf("programs before %v and after %v, want one replaced by another", before, after)
	}
	if err := load.Cleanup(dir); err != nil {
		t.Error(err)
	}
	if left := attached(t, cg, ebpf.AttachCGroupInet4Connect); len(left) != 0 {
		t.Errorf("programs after Cleanup: %v", left)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s after Cleanup: %v", dir, err)
	}
	if err := load.Cleanup(dir); err != nil {
		t.Errorf("second Cleanup: %v", err)
	}
}

func TestAttachSockNamesAnExclusiveProgram(t *testing.T) {
	cg := cgroup(t)
	o := open(t, pins(t))
	foreign := o.Program(abi.ProgSendmsg4)
	dir, err := os.Open(cg)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	// Without flags an attachment is exclusive.
	opts := link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: foreign, Attach: ebpf.AttachCGroupUDP4Sendmsg}
	if err := link.RawAttachProgram(opts); err != nil {
		t.Fatal(err)
	}
	defer link.RawDetachProgram(link.RawDetachProgramOptions{Target: opts.Target, Program: foreign, Attach: opts.Attach})
	err = o.AttachSock(cg)
	if err == nil || !strings.Contains(err.Error(), `"sendmsg4"`) || !strings.Contains(err.Error(), cg) {
		t.Errorf("error %v, want one that names the program and the cgroup", err)
	}
}

func TestAttachPod(t *testing.T) {
	// A namespace of its own: its loopback is the device.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	dir := pins(t)
	for range 2 {
		o := open(t, dir)
		err := o.AttachPod(1)
		if errors.Is(err, load.ErrNoTCX) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		devices, err := o.PodDevices()
		if err != nil || len(devices) != 1 || devices[0] != 1 {
			t.Errorf("pod devices %v, %v", devices, err)
		}
	}
	o := open(t, dir)
	for range 2 {
		if err := o.DetachPod(1); err != nil {
			t.Error(err)
		}
	}
	if devices, err := o.PodDevices(); err != nil || len(devices) != 0 {
		t.Errorf("pod devices %v, %v, want none", devices, err)
	}
	result, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress})
	if err != nil || len(result.Programs) != 0 {
		t.Errorf("programs after DetachPod: %v, %v", result, err)
	}
}

// pinned puts a map in the place of the one pinned by that name.
func pinned(t *testing.T, dir, name string, spec *ebpf.MapSpec) *ebpf.Map {
	t.Helper()
	path := filepath.Join(dir, "maps", name)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := m.Pin(path); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestUpgrade opens pins of another layout: rows are kept as far as they fit, also ones that come while the programs of the
// version before are still attached, and a process that dies in between changes nothing.
func TestUpgrade(t *testing.T) {
	dir := pins(t)
	open(t, dir).Close()
	key := func(n uint32) abi.SlotKey { return abi.SlotKey{Service: 1, Index: n} }
	wider := func(n byte) []byte { return append(make([]byte, 19), n, 0, 0, 0, 0, 0, 0, 0, 0) }
	old := pinned(t, dir, abi.MapSlot, &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 28, MaxEntries: 10})
	pinned(t, dir, abi.MapEndpoint, &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 10}).Put(uint32(1), uint32(1))
	if err := old.Put(key(1), wider(1)); err != nil {
		t.Fatal(err)
	}
	check := func(o *load.Objects, rows ...uint32) {
		t.Helper()
		for _, n := range rows {
			var b abi.Backend
			if err := o.Map(abi.MapSlot).Lookup(key(n), &b); err != nil || b.Flags>>8 != uint16(n) {
				t.Errorf("row %d: %v, %v", n, b, err)
			}
		}
		if o.Map(abi.MapEndpoint).Iterate().Next(new(abi.Addr), new(abi.Endpoint)) {
			t.Error("a row with a key of another form was kept")
		}
	}
	first := open(t, dir)
	if !first.Upgrading() {
		t.Error("not upgrading")
	}
	check(first, 1)
	first.Close()
	if err := old.Put(key(2), wider(2)); err != nil {
		t.Fatal(err)
	}
	o := open(t, dir)
	if !o.Upgrading() {
		t.Error("the second process does not go on with the upgrade")
	}
	check(o, 1, 2)
	if err := old.Put(key(3), wider(3)); err != nil {
		t.Fatal(err)
	}
	if err := o.Upgraded(); err != nil {
		t.Fatal(err)
	}
	check(o, 1, 2, 3)
	if o.Upgrading() || open(t, dir).Upgrading() {
		t.Error("upgrading still")
	}
}

func TestOpenNeedsBPFFS(t *testing.T) {
	if _, err := load.Open(config(t.TempDir())); !errors.Is(err, load.ErrNotBPFFS) {
		t.Errorf("error %v, want ErrNotBPFFS", err)
	}
}
