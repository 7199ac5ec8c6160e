package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errRunning is returned by takeLock when a node runs already.
var errRunning = errors.New("a node is already running on this machine")

// takeLock makes this process the one node on p.run; the kernel releases the lock when the process ends, however it ends.
// Returns errRunning with the other's process id. The caller keeps the file open as long as it runs.
func takeLock(p paths) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(p.lock()), 0o700); err != nil {
		return nil, fmt.Errorf("create run directory: %w", err)
	}
	f, err := os.OpenFile(p.lock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", p.run, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if pid, held := lockHolder(p); held {
			return nil, fmt.Errorf("%w (process %d, %s); stop it with `skep down`", errRunning, pid, p.run)
		}
		return nil, fmt.Errorf("lock %s: %w", p.lock(), err)
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// releaseLock gives the lock back in an orderly end, which leaves no process id in it.
func releaseLock(f *os.File) error { return errors.Join(f.Truncate(0), f.Close()) }

// endedOrderly tells whether the last process that held the lock of p.run gave it back, or `skep down` has been here.
func endedOrderly(p paths) bool {
	info, err := os.Stat(p.lock())
	return errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0
}

// lockHolder returns the process that holds the lock of p.run, if one does.
func lockHolder(p paths) (pid int, held bool) {
	f, err := os.Open(p.lock())
	if err != nil {
		return 0, false
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return 0, false
	}
	data, err := os.ReadFile(p.lock())
	if err != nil {
		return 0, true
	}
	pid, _ = strconv.Atoi(strings.TrimSpace(string(data)))
	return pid, true
}
