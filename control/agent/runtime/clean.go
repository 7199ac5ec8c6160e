package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/control/agent/cgroup"
	"github.com/skep-io/skep/control/agent/container"
)

// StopContainerd ends all containers of the namespace and removes them and their control groups; our own containerd is ended
// too, with its shims, mounts and run-time state. Images stay. It is idempotent; nothing needs to run for it.
func StopContainerd(ctx context.Context, d Daemon, cfg Config) error {
	if cfg.Address = d.Address; cfg.Address == "" {
		cfg.Address = d.socket()
	}
	var errs []error
	if dial(ctx, cfg.Address) == nil {
		errs = append(errs, removeContainers(ctx, cfg))
	}
	if d.Address == "" {
		errs = append(errs, d.stop())
	}
	return errors.Join(append(errs, removeCgroups(ctx, cfg))...)
}

// removeContainers kills all at once and then waits for each.
func removeContainers(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r, err := New(ctx, cfg)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.Adopt(ctx); err != nil {
		return err
	}
	all, err := r.List(ctx)
	if err != nil {
		return err
	}
	results := make(chan error, len(all))
	for _, s := range all {
		go func(s container.Status) { results <- r.Remove(ctx, s.ID) }(s)
	}
	var errs []error
	for range all {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// removeCgroups removes the groups of pods, if the host has any.
func removeCgroups(ctx context.Context, cfg Config) error {
	root := cfg.CgroupRoot
	if root == "" {
		root = "/sys/fs/cgroup"
	}
	tree, err := cgroup.Detect(root, cfg.PodsCgroup)
	if err != nil {
		return err
	}
	// A process that was killed leaves its group a moment later.
	for range 50 {
		if err = tree.Remove(tree.Parent("")); err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		if !sleep(ctx, 10*time.Millisecond) {
			return err
		}
	}
	return err
}

// stop ends the daemon and what it left: shims whose daemon died before, mounts, files.
func (d Daemon) stop() error {
	var errs []error
	if pid := d.pid(); pid != 0 {
		errs = append(errs, endProcess(pid, unix.SIGTERM, 10*time.Second))
	}
	for _, pid := range d.shims() {
		errs = append(errs, endProcess(pid, unix.SIGKILL, 5*time.Second))
	}
	errs = append(errs, unmountBelow(d.state()), unmountBelow(d.root()))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.RemoveAll(d.state()); err != nil {
		return fmt.Errorf("containerd state: %w", err)
	}
	return nil
}

// shims finds the shims of our own daemon by the socket that they were started with.
func (d Daemon) shims() []int {
	entries, _ := os.ReadDir("/proc")
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line := cmdline(pid)
		if strings.Contains(line, "containerd-shim") && strings.Contains(line, " -address "+d.socket()+" ") {
			out = append(out, pid)
		}
	}
	return out
}

// unmountBelow unmounts all that is mounted under a directory, the innermost first.
func unmountBelow(dir string) error {
	found, err := mountinfo.GetMounts(mountinfo.PrefixFilter(filepath.Clean(dir)))
	if err != nil {
		return fmt.Errorf("mounts below %s: %w", dir, err)
	}
	slices.SortFunc(found, func(a, b *mountinfo.Info) int { return len(b.Mountpoint) - len(a.Mountpoint) })
	var errs []error
	for _, m := range found {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}
