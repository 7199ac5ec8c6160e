package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestPaths(t *testing.T) {
	for qos, want := range map[string]string{
		"Guaranteed": "/kubepods/pod1", "Burstable": "/kubepods/burstable/pod1", "BestEffort": "/kubepods/besteffort/pod1",
	} {
		if got := PodPath(qos, "1"); got != want {
			t.Errorf("%s: %s, want %s", qos, got, want)
		}
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 30: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("%d: %d, want %d", shares, got, want)
		}
	}
}

func TestCreateAndRemove(t *testing.T) {
	tree, err := Detect("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	parent := fmt.Sprintf("/skep-cgroup-test-%d", os.Getpid())
	t.Cleanup(func() {
		if err := tree.Remove(parent); err != nil {
			t.Error(err)
		}
	})
	path := parent + "/burstable/pod1"
	limits := Limits{CPUShares: 512, CPUQuota: 50_000, Memory: 64 << 20}
	for range 2 {
		if err := tree.Create(path, limits); err != nil {
			t.Fatal(err)
		}
	}
	if dir := tree.Unified(path); dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if err := tree.Remove(parent); err != nil {
			t.Fatal(err)
		}
	}
	if found, _ := filepath.Glob("/sys/fs/cgroup/*" + parent); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
}
