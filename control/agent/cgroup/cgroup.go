// Package cgroup makes and removes the control groups of pods, on hosts with cgroup v2, v1, or both (hybrid).
//
// Paths are absolute within a hierarchy, for example /kubepods/burstable/pod<uid>; a Tree knows where each lies in the file
// system, and below which group the pods of its node are: several nodes of one machine do not see each other's.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mode is how the host mounts its control groups.
type Mode string

// The modes.
const (
	V1     Mode = "v1"
	Hybrid Mode = "hybrid"
	V2     Mode = "v2"
)

// Limits are those of a pod's group. Zero means not set.
type Limits struct {
	// CPUShares is the relative weight in v1 shares (2..262144).
	CPUShares uint64
	// CPUQuota and CPUPeriod are in microseconds.
	CPUQuota  int64
	CPUPeriod uint64
	// Memory is in bytes.
	Memory int64
	// Pids is the number of tasks at most.
	Pids int64
}

// Tree is the host's control groups. It holds no state and is safe for concurrent use.
type Tree struct {
	mode Mode
	// root is where the hierarchies are mounted; unified is the v2 one, empty in mode v1.
	root, unified string
	// pods is the group above all pods'.
	pods string
}

// DefaultPods is the group of a machine that is one node.
const DefaultPods = "/kubepods"

// Detect looks at what is mounted under root, usually /sys/fs/cgroup. The group pods, DefaultPods if empty, is above all pods';
// it need not exist.
func Detect(root, pods string) (*Tree, error) {
	t, err := detect(root)
	if err != nil {
		return nil, err
	}
	if pods == "" {
		pods = DefaultPods
	}
	t.pods = filepath.Join("/", pods)
	return t, nil
}

func detect(root string) (*Tree, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return nil, fmt.Errorf("cgroup root %s: %w", root, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return &Tree{mode: V2, root: root, unified: root}, nil
	}
	unified := filepath.Join(root, "unified")
	if err := unix.Statfs(unified, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return &Tree{mode: Hybrid, root: root, unified: unified}, nil
	}
	if _, err := os.Stat(filepath.Join(root, "memory")); err != nil {
		return nil, fmt.Errorf("cgroup root %s: neither cgroup2 nor a v1 memory controller is mounted", root)
	}
	return &Tree{mode: V1, root: root}, nil
}

// Mode returns how the host mounts its control groups.
func (t *Tree) Mode() Mode { return t.mode }

// Unified returns the directory of a group in the cgroup2 hierarchy, where BPF programs see it; empty in mode v1.
func (t *Tree) Unified(path string) string {
	if t.unified == "" {
		return ""
	}
	return filepath.Join(t.unified, path)
}

// Parent returns the group of all pods of a QoS class ("Guaranteed", "Burstable" or "BestEffort"); of all pods for "".
func (t *Tree) Parent(qos string) string {
	if qos == "Guaranteed" || qos == "" {
		return t.pods
	}
	return t.pods + "/" + strings.ToLower(qos)
}

// PodPath returns the group of one pod.
func (t *Tree) PodPath(qos, uid string) string { return t.Parent(qos) + "/pod" + uid }

// Create makes the group, its parents, and sets its limits. It is idempotent.
func (t *Tree) Create(path string, limits Limits) error {
	if t.mode == V2 {
		return t.createUnified(path, limits)
	}
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if err := os.MkdirAll(t.dir(controller, path), 0o755); err != nil {
			return fmt.Errorf("cgroup %s: %w", path, err)
		}
	}
	if t.unified != "" {
		if err := os.MkdirAll(t.Unified(path), 0o755); err != nil {
			return fmt.Errorf("cgroup %s: %w", path, err)
		}
	}
	return t.write(path, filesV1(limits))
}

func (t *Tree) createUnified(path string, limits Limits) error {
	if err := os.MkdirAll(t.Unified(path), 0o755); err != nil {
		return fmt.Errorf("cgroup %s: %w", path, err)
	}
	// Controllers must be passed down from each ancestor to its children before the limits exist as files.
	dir := t.unified
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		for _, controller := range []string{"cpu", "cpuset", "memory", "pids", "io"} {
			err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
			if err != nil && controller != "io" && controller != "cpuset" {
				return fmt.Errorf("cgroup %s: enable controller %s: %w", dir, controller, err)
			}
		}
		dir = filepath.Join(dir, part)
	}
	return t.write(path, filesV2(limits))
}

// setting is one file to write; the first element of its path is the v1 controller.
type setting struct{ controller, file, value string }

func (t *Tree) write(path string, settings []setting) error {
	for _, s := range settings {
		if err := os.WriteFile(filepath.Join(t.dir(s.controller, path), s.file), []byte(s.value), 0); err != nil {
			return fmt.Errorf("cgroup %s: set %s=%s: %w", path, s.file, s.value, err)
		}
	}
	return nil
}

func filesV1(l Limits) []setting {
	var out []setting
	if l.CPUShares > 0 {
		out = append(out, setting{"cpu", "cpu.shares", strconv.FormatUint(l.CPUShares, 10)})
	}
	if l.CPUQuota > 0 {
		out = append(out, setting{"cpu", "cpu.cfs_period_us", strconv.FormatUint(period(l), 10)},
			setting{"cpu", "cpu.cfs_quota_us", strconv.FormatInt(l.CPUQuota, 10)})
	}
	if l.Memory > 0 {
		out = append(out, setting{"memory", "memory.limit_in_bytes", strconv.FormatInt(l.Memory, 10)})
	}
	if l.Pids > 0 {
		out = append(out, setting{"pids", "pids.max", strconv.FormatInt(l.Pids, 10)})
	}
	return out
}

func filesV2(l Limits) []setting {
	var out []setting
	if l.CPUShares > 0 {
		out = append(out, setting{"", "cpu.weight", strconv.FormatUint(Weight(l.CPUShares), 10)})
	}
	if l.CPUQuota > 0 {
		out = append(out, setting{"", "cpu.max", fmt.Sprintf("%d %d", l.CPUQuota, period(l))})
	}
	if l.Memory > 0 {
		out = append(out, setting{"", "memory.max", strconv.FormatInt(l.Memory, 10)})
	}
	if l.Pids > 0 {
		out = append(out, setting{"", "pids.max", strconv.FormatInt(l.Pids, 10)})
	}
	return out
}

func period(l Limits) uint64 {
	if l.CPUPeriod == 0 {
		return 100_000
	}
	return l.CPUPeriod
}

// Weight converts v1 CPU shares (2..262144) to a v2 weight (1..10000), as runc does.
func Weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

// Remove removes the group and all below it from every hierarchy. A group that is not there is removed already.
// Returns an error if a process still lives in it.
func (t *Tree) Remove(path string) error {
	var errs []error
	for _, root := range t.hierarchies() {
		errs = append(errs, removeAll(filepath.Join(root, path)))
	}
	return errors.Join(errs...)
}

// Pods returns the paths of all groups of the node's pods that exist in any hierarchy.
func (t *Tree) Pods() []string {
	seen := map[string]bool{}
	var out []string
	for _, root := range t.hierarchies() {
		for _, qos := range []string{"Guaranteed", "Burstable", "BestEffort"} {
			found, _ := filepath.Glob(filepath.Join(root, t.Parent(qos), "pod*"))
			for _, dir := range found {
				path := strings.TrimPrefix(dir, root)
				if !seen[path] {
					seen[path] = true
					out = append(out, path)
				}
			}
		}
	}
	return out
}

// OOMKills returns how many processes of the group the kernel has killed for memory; 0 if the group is gone.
func (t *Tree) OOMKills(path string) int {
	file := "memory.events"
	if t.mode != V2 {
		file = "memory.oom_control"
	}
	return int(t.field(path, "memory", file, "oom_kill"))
}

// Usage is what a group uses now.
type Usage struct {
	// CPUNanos is CPU time consumed since the group was made, Memory is in bytes.
	CPUNanos, Memory uint64
}

// Usage reads the group's accounting; zero where the group is gone.
func (t *Tree) Usage(path string) Usage {
	if t.mode == V2 {
		return Usage{CPUNanos: t.field(path, "", "cpu.stat", "usage_usec") * 1000, Memory: t.number(path, "", "memory.current")}
	}
	return Usage{CPUNanos: t.number(path, "cpuacct", "cpuacct.usage"), Memory: t.number(path, "memory", "memory.usage_in_bytes")}
}

func (t *Tree) number(path, controller, file string) uint64 {
	data, err := os.ReadFile(filepath.Join(t.dir(controller, path), file))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return n
}

// field reads "key number" from a flat-keyed file.
func (t *Tree) field(path, controller, file, key string) uint64 {
	data, err := os.ReadFile(filepath.Join(t.dir(controller, path), file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
			n, _ := strconv.ParseUint(value, 10, 64)
			return n
		}
	}
	return 0
}

func (t *Tree) dir(controller, path string) string {
	if t.mode == V2 {
		return filepath.Join(t.root, path)
	}
	return filepath.Join(t.root, controller, path)
}

func (t *Tree) hierarchies() []string {
	if t.mode == V2 {
		return []string{t.root}
	}
	entries, _ := os.ReadDir(t.root)
	var out []string
	for _, e := range entries {
		// Links are second names of joint controllers ("cpu" -> "cpu,cpuacct").
		if e.IsDir() {
			out = append(out, filepath.Join(t.root, e.Name()))
		}
	}
	return out
}

// removeAll removes directories from the leaves up; the files in them are the kernel's and cannot be unlinked.
func removeAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}
