package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestPaths(t *testing.T) {
	for _, row := range []struct{ pods, qos, want string }{
		{"", "Guaranteed", "/kubepods/pod1"},
		{"", "Burstable", "/kubepods/burstable/pod1"},
		{"/kubepods", "BestEffort", "/kubepods/besteffort/pod1"},
		{"/other/kubepods", "Burstable", "/other/kubepods/burstable/pod1"},
		{"other/kubepods/", "Guaranteed", "/other/kubepods/pod1"},
	} {
		tree, err := Detect("/sys/fs/cgroup", row.pods)
		if err != nil {
			t.Fatal(err)
		}
		if got := tree.PodPath(row.qos, "1"); got != row.want {
			t.Errorf("%q %s: %s, want %s", row.pods, row.qos, got, row.want)
		}
	}
}

func TestPodsOfTwoNodes(t *testing.T) {
	var trees [2]*Tree
	for i := range trees {
		node := fmt.Sprintf("/skep-cgroup-test-%d-%d", os.Getpid(), i)
		tree, err := Detect("/sys/fs/cgroup", node+"/kubepods")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := tree.Remove(node); err != nil {
				t.Error(err)
			}
		})
		if err := tree.Create(tree.PodPath("Burstable", "1"), Limits{}); err != nil {
			t.Fatal(err)
		}
		trees[i] = tree
	}
	if err := trees[0].Remove(trees[0].Parent("")); err != nil {
		t.Fatal(err)
	}
	if got := trees[0].Pods(); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	if got := trees[1].Pods(); len(got) != 1 || got[0] != trees[1].PodPath("Burstable", "1") {
		t.Errorf("pods of the other node: %v", got)
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
	tree, err := Detect("/sys/fs/cgroup", "")
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
