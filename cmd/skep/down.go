package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/control/agent/runtime"
	"github.com/skep-io/skep/datapath"
	"github.com/skep-io/skep/datapath/cni"
)

// stopTimeout is how long the node's process may take to end before it is killed.
const stopTimeout = 20 * time.Second

func downCommand() *cobra.Command {
	cfg := defaultNodeConfig()
	purge := false
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the node and remove everything it holds on this machine",
		Long: `Stop the node, its pods and its containerd, and remove namespaces, devices, routes, programs, maps, mounts and cgroups.
The cluster's data stays, and "skep up" brings the cluster back, unless --purge removes it too. Down may be repeated.`,
		Example: `  skep down
  skep down --purge`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := stopProcess(cfg.paths); err != nil {
				return err
			}
			if err := cleanFellows(cmd.Context(), cfg, purge); err != nil {
				return err
			}
			if err := clean(cmd.Context(), cfg); err != nil {
				return err
			}
			if purge {
				return os.RemoveAll(cfg.paths.data)
			}
			return nil
		},
	}
	placeFlags(cmd, &cfg)
	cmd.Flags().BoolVar(&purge, "purge", false, "remove the cluster's data as well")
	return cmd
}

// stopProcess ends the node's process, if one runs, and waits until it is gone.
func stopProcess(p paths) error {
	pid, held := lockHolder(p)
	if !held {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, stopTimeout}, {syscall.SIGKILL, stopTimeout}} {
		if err := unix.PidfdSendSignal(fd, step.signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop process %d: %w", pid, err)
		}
		if ended(fd, step.wait) {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}

// ended waits for the end of the process of a pidfd.
func ended(fd int, wait time.Duration) bool {
	for deadline := time.Now().Add(wait); ; {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n > 0 {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
}

// clean removes what the node left: containers first, whose processes hold the rest, then the network, mounts and cgroups.
func clean(ctx context.Context, cfg nodeConfig) error {
	if cni.Installed(cfg.paths.cni()) {
		return cleanForeign(cfg)
	}
	n := &node{cfg: cfg, logger: slog.New(slog.DiscardHandler)}
	daemon := cfg.daemon()
	if daemon.Address == "" {
		if address := containerdAddress(cfg.paths); address != "" {
			daemon.Address = external(cfg.paths, address)
		}
	}
	if err := runtime.StopContainerd(ctx, daemon, n.runtimeConfig(containerdAddress(cfg.paths))); err != nil {
		return err
	}
	if err := datapath.Cleanup(datapath.Config{BPFDir: cfg.paths.bpf, RunDir: cfg.paths.run}); err != nil {
		return err
	}
	if err := unmountBelow(cfg.paths.data, cfg.paths.run); err != nil {
		return err
	}
	for _, name := range []string{cfg.podsCgroup(), cfg.cgroup} {
		if name = strings.Trim(name, "/"); name != "" {
			if err := removeCgroups(ctx, name); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(cfg.paths.run)
}

// cleanForeign removes the network of somebody else's cluster. Containers and cgroups are not ours; what the container runtime
// finds goes first, so that it starts no pods meanwhile.
func cleanForeign(cfg nodeConfig) error {
	if err := cni.Remove(cfg.paths.cni()); err != nil {
		return err
	}
	if err := datapath.Cleanup(datapath.Config{BPFDir: cfg.paths.bpf, RunDir: cfg.paths.run}); err != nil {
		return err
	}
	if err := unmountBelow(cfg.paths.run); err != nil {
		return err
	}
	if err := os.RemoveAll(cfg.paths.run); err != nil {
		return err
	}
	return cni.Forget(cfg.paths.cni())
}

// external returns the address of a containerd that is not the node's own, else nothing.
func external(p paths, address string) string {
	if strings.HasPrefix(address, p.run+"/") {
		return ""
	}
	return address
}

// unmountBelow unmounts everything mounted at or below the directories, the deepest and newest first.
func unmountBelow(dirs ...string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	var points []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// proc(5): the fifth field is the mount point, with octal escapes that our own paths do not need.
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && slices.ContainsFunc(dirs, func(d string) bool { return fields[4] == d || strings.HasPrefix(fields[4], d+"/") }) {
			points = append(points, fields[4])
		}
	}
	var errs []error
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// removeCgroups removes the cgroup of the given name and all below it from every hierarchy.
func removeCgroups(ctx context.Context, name string) error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		tops, err := filepath.Glob(pattern + name)
		if err != nil {
			return err
		}
		for _, top := range tops {
			errs = append(errs, removeCgroupTree(ctx, top))
		}
	}
	return errors.Join(errs...)
}

func removeCgroupTree(ctx context.Context, top string) error {
	var dirs []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(dirs) {
		if err := removeCgroup(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// removeCgroup removes one empty cgroup. It stays busy for some milliseconds after its last process ended, of which no event tells.
func removeCgroup(ctx context.Context, dir string) error {
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
}
