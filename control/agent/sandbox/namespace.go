package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// pinned says that path is a namespace that is already there.
func pinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// pin makes an IPC and, unless the pod uses the host's, a UTS namespace and binds them to files, where they live on without a
// process. Namespaces that are there stay.
func pin(ipc, uts, hostname string) error {
	if (ipc == "" || pinned(ipc)) && (uts == "" || pinned(uts)) {
		return nil
	}
	done := make(chan error, 1)
	go func() {
		// The thread is never unlocked: it ends with the goroutine, since its namespaces are not the process's any more.
		runtime.LockOSThread()
		done <- pinHere(ipc, uts, hostname)
	}()
	return <-done
}

func pinHere(ipc, uts, hostname string) error {
	for _, n := range []struct {
		path, name string
		flag       int
	}{{ipc, "ipc", unix.CLONE_NEWIPC}, {uts, "uts", unix.CLONE_NEWUTS}} {
		if n.path == "" || pinned(n.path) {
			continue
		}
		if err := unix.Unshare(n.flag); err != nil {
			return fmt.Errorf("new %s namespace: %w", n.name, err)
		}
		if n.flag == unix.CLONE_NEWUTS {
			if err := unix.Sethostname([]byte(hostname)); err != nil {
				return fmt.Errorf("set hostname %q: %w", hostname, err)
			}
		}
		if err := bind("/proc/thread-self/ns/"+n.name, n.path); err != nil {
			return err
		}
	}
	return nil
}

func bind(from, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount(from, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin namespace at %s: %w", path, err)
	}
	return nil
}

// unpin lets go of whatever is mounted at path and removes it. A missing path is fine.
func unpin(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return os.RemoveAll(path)
}
