// Command guest is the first process of a virtual machine that tests a kernel: it mounts what the tests need, loads the
// modules that were put beside it, runs the test programs one after the other, and switches the machine off.
// What they print goes to the console, between lines that say which program it is and how it ended.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// limit is how long one test program may take under emulation.
const limit = 20 * time.Minute

func main() {
	if err := prepare(); err != nil {
		fmt.Println("guest:", err)
	} else {
		tests, _ := filepath.Glob("/tests/*.test")
		for _, path := range tests {
			run(path)
		}
		fmt.Println("guest: done")
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// prepare mounts and loads. The cgroup hierarchy is pure v2, as on most machines.
func prepare() error {
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
		{"bpf", "/sys/fs/bpf"}, {"cgroup2", "/sys/fs/cgroup"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := os.Setenv("PATH", "/bin"); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput()
	if err != nil {
		return fmt.Errorf("lo: %w: %s", err, out)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	fmt.Println("guest: kernel", unix.ByteSliceToString(name.Release[:]))
	return nil
}

// loadModules loads the modules in rounds, as one may need another: as long as a round loads one, the next may load more.
func loadModules() error {
	left, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for len(left) > 0 {
		var failed []string
		var last error
		for _, path := range left {
			if err := loadModule(path); err != nil {
				failed, last = append(failed, path), err
			}
		}
		if len(failed) == len(left) {
			return fmt.Errorf("modules %s: %w", strings.Join(failed, " "), last)
		}
		left = failed
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

func run(path string) {
	_, name, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".test"), ".") // without the place in the order
	fmt.Printf("guest: begin %s\n", name)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-test.v", "-test.parallel=1", "-test.timeout="+(limit-5*time.Second).String())
	cmd.Dir = "/tmp"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	begin, result := time.Now(), "ok"
	if err := cmd.Run(); err != nil {
		result = "failed: " + err.Error()
	}
	fmt.Printf("\nguest: end %s %.0fs %s\n", name, time.Since(begin).Seconds(), result)
}
