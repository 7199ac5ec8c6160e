package podnet

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// foreign makes a network namespace as a container runtime does, and opens it.
func foreign(t *testing.T, m *Manager) *os.File {
	t.Helper()
	path := t.TempDir() + "/netns"
	ns, err := createNamespace(path, m.hostNS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ns.Close()
		if err := removeNamespace(path); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// A pod whose namespace somebody else made has one sandbox after another, and they may overlap.
func TestAdopt(t *testing.T) {
	dir, kernel := t.TempDir()+"/netns", newFakeKernel()
	m := newManager(t, dir, kernel)
	one, two := foreign(t, m), foreign(t, m)
	pod := Pod{UID: "u", Namespace: "default", Name: "web", Sandbox: "first+net0", NetNS: one, Device: "net0"}
	first, err := m.Attach(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.Attach(t.Context(), pod); err != nil || again.IPs[0] != first.IPs[0] {
		t.Errorf("attached again: %v %v, want %v", again.IPs, err, first.IPs)
	}
	if _, err := m.Check(t.Context(), pod); err != nil {
		t.Error(err)
	}
	if e := kernel.endpoints[first.IPs[0]]; e.Pod != "u" {
		t.Errorf("endpoint of pod %q, want its UID", e.Pod)
	}

	// The next process finds it again; the address is not given out twice.
	m.Close()
	m = newManager(t, dir, kernel)
	next := Pod{UID: "u", Namespace: "default", Name: "web", Sandbox: "second+eth0", NetNS: two}
	second, err := m.Attach(t.Context(), next)
	if err != nil {
		t.Fatal(err)
	}
	if second.IPs[0] == first.IPs[0] {
		t.Errorf("two sandboxes have %s", first.IPs[0])
	}
	if err := m.Detach(t.Context(), pod.Sandbox); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Check(t.Context(), pod); !errors.Is(err, ErrNotAttached) {
		t.Errorf("check of a detached sandbox: %v", err)
	}
	if _, err := m.Check(t.Context(), next); err != nil {
		t.Error(err)
	}
	echoFrom(t, m, second.NetNS, second.IPs[0].String()+":80")
	ask(t, second.IPs[0].String()+":80")
	// The namespace is not ours to end.
	if err := m.Detach(t.Context(), next.Sandbox); err != nil {
		t.Fatal(err)
	}
	if err := enter(two, m.hostNS, func() error { _, err := net.InterfaceByName("lo"); return err }); err != nil {
		t.Error(err)
	}
}

// A name used again for another namespace leaves nothing behind in the first.
func TestAdoptAnother(t *testing.T) {
	m := newManager(t, t.TempDir()+"/netns", newFakeKernel())
	one, two := foreign(t, m), foreign(t, m)
	pod := Pod{UID: "u", Namespace: "default", Name: "web", Sandbox: "s+eth0", NetNS: one}
	for _, pod.NetNS = range []*os.File{one, two} {
		if _, err := m.Attach(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	a, err := m.Check(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	echoFrom(t, m, a.NetNS, a.IPs[0].String()+":80")
	ask(t, a.IPs[0].String()+":80")
	var left error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline) && left == nil; {
		left = enter(one, m.hostNS, func() error { _, err := net.InterfaceByName("eth0"); return err })
	}
	if left == nil {
		t.Error("the former namespace keeps its device")
	}
}
