package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// ErrNoContainerd is returned when no containerd is given and none is installed.
var ErrNoContainerd = errors.New("containerd not found")

// Daemon says which containerd to use.
type Daemon struct {
	// Address is the socket of a containerd that somebody else runs; empty means one of our own.
	Address string
	// DataDir and RunDir are where our own keeps its images, and its socket and mounts: in the folder containerd of each.
	DataDir, RunDir string
}

func (d Daemon) root() string    { return filepath.Join(d.DataDir, "containerd") }
func (d Daemon) state() string   { return filepath.Join(d.RunDir, "containerd") }
func (d Daemon) socket() string  { return filepath.Join(d.state(), "containerd.sock") }
func (d Daemon) pidFile() string { return filepath.Join(d.state(), "containerd.pid") }

// daemonConfig leaves out what skep does not use, so that it starts sooner.
const daemonConfig = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.native", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart", "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = %q
[plugins."io.containerd.runtime.v2.task"]
  platforms = ["linux/%s"]
`

// EnsureContainerd returns the socket of a containerd that serves: the given one, our own that still runs, or our own
// started now. Our own lives in a session of its own and survives this process. Returns ErrNoContainerd if it is not installed.
func EnsureContainerd(ctx context.Context, d Daemon) (address string, err error) {
	if d.Address != "" {
		if err := dial(ctx, d.Address); err != nil {
			return "", fmt.Errorf("containerd at %s does not answer: %w", d.Address, err)
		}
		return d.Address, nil
	}
	if dial(ctx, d.socket()) == nil {
		return d.socket(), nil
	}
	if err := d.start(ctx); err != nil {
		return "", err
	}
	return d.socket(), nil
}

func dial(ctx context.Context, socket string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (d Daemon) start(ctx context.Context) error {
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: %s is not in PATH; install the packages containerd and runc (apt-get install containerd runc), or give the socket of a running one", ErrNoContainerd, program)
		}
	}
	for _, dir := range []string{d.root(), d.state()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("containerd directory: %w", err)
		}
	}
	// A socket that nobody answers is left of a daemon that died; the new one's must not be mistaken for it.
	if err := os.Remove(d.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("containerd socket: %w", err)
	}
	config := filepath.Join(d.root(), "config.toml")
	text := fmt.Sprintf(daemonConfig, d.root(), d.state(), d.socket(), goruntime.GOARCH)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("containerd configuration: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch for containerd: %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(d.state()); err != nil {
		return fmt.Errorf("watch for containerd: %w", err)
	}
	died, err := d.launch(config)
	if err != nil {
		return err
	}
	return d.awaitSocket(ctx, watcher, died)
}

// launch starts the process and returns a channel that is closed if it ends while this process lives.
func (d Daemon) launch(config string) (<-chan struct{}, error) {
	out, err := os.OpenFile(d.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("containerd log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command("containerd", "--config", config, "--log-level", "warn")
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	died := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(died)
	}()
	if err := os.WriteFile(d.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("containerd pid: %w", err)
	}
	return died, nil
}

func (d Daemon) logFile() string { return filepath.Join(d.root(), "containerd.log") }

// awaitSocket waits until the daemon answers. It creates its socket and listens in two steps, and only the first can be
// watched: between them, a dial is repeated.
func (d Daemon) awaitSocket(ctx context.Context, watcher *fsnotify.Watcher, died <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		for range 50 {
			if dial(ctx, d.socket()) == nil {
				return nil
			}
			if _, err := os.Stat(d.socket()); err != nil {
				break
			}
			if !sleep(ctx, time.Millisecond) {
				break
			}
		}
		select {
		case <-watcher.Events:
		case <-died:
			return fmt.Errorf("containerd ended at once; its log %s ends with: %s", d.logFile(), tail(d.logFile()))
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer at %s: %w; see %s", d.socket(), ctx.Err(), d.logFile())
		}
	}
}

func tail(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	data = data[max(0, len(data)-500):]
	return strings.TrimSpace(string(data))
}

// pid returns the process of our own daemon, or 0 if it does not run. A number that another program got since is not taken
// for it.
func (d Daemon) pid() int {
	data, err := os.ReadFile(d.pidFile())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0
	}
	if !strings.Contains(cmdline(pid), filepath.Join(d.root(), "config.toml")) {
		return 0
	}
	return pid
}

func cmdline(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(data), "\x00", " ")
}

// endProcess signals a process and waits for its end through a pidfd.
func endProcess(pid int, sig unix.Signal, patience time.Duration) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for _, s := range []unix.Signal{sig, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(fds, int(patience.Milliseconds())); n > 0 {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}
