package load_test

import (
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
)

// veth makes a pair in a network namespace of this test's own and returns the index of one end.
func veth(t *testing.T) int {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread and its namespace end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "link", "add", "name", "front0", "type", "veth", "peer", "name", "front1").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	device, err := net.InterfaceByName("front0")
	if err != nil {
		t.Fatal(err)
	}
	return device.Index
}

// behind is the program behind a pinned link.
func behind(t *testing.T, path string) ebpf.ProgramID {
	t.Helper()
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info.Program
}

// TestAttachFront: the program outlives its process, is replaced behind the same link, and leaves the device free for others.
func TestAttachFront(t *testing.T) {
	index, dir := veth(t), pins(t)
	first := open(t, dir)
	if err := first.AttachFront(index); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "links", "front", strconv.Itoa(index), abi.ProgFront)
	before := behind(t, path)
	first.Close()
	second := open(t, dir)
	if err := second.AttachFront(index); err != nil {
		t.Fatal(err)
	}
	if after := behind(t, path); before == 0 || after == before {
		t.Errorf("program %d, then %d, want another", before, after)
	}
	for range 2 {
		if err := second.DetachFront(index); err != nil {
			t.Error(err)
		}
	}
	foreignXDP(t, index).Close()
	if err := second.AttachFront(index); err != nil {
		t.Fatal(err)
	}
	if err := load.Cleanup(dir); err != nil {
		t.Error(err)
	}
	foreignXDP(t, index).Close()
}

// TestAttachFrontYields: a program of somebody else stays, and that is told from a driver that runs none.
func TestAttachFrontYields(t *testing.T) {
	index := veth(t)
	defer foreignXDP(t, index).Close()
	o := open(t, pins(t))
	if err := o.AttachFront(index); !errors.Is(err, load.ErrForeignXDP) {
		t.Errorf("error %v, want ErrForeignXDP", err)
	}
	const lo = 1
	if err := o.AttachFront(lo); !errors.Is(err, load.ErrNoXDP) {
		t.Errorf("error %v, want ErrNoXDP", err)
	}
}

// foreignXDP attaches a program that passes everything.
func foreignXDP(t *testing.T, index int) link.Link {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: index, Flags: link.XDPDriverMode})
	if err != nil {
		t.Fatal(err)
	}
	return l
}
