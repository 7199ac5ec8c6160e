package podnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/netns"
)

// createNamespace makes a network namespace and pins it at path by a bind mount, from where it outlives this process. A
// namespace that is pinned there already is used as it is. The caller closes the file.
func createNamespace(path string, home *os.File) (*os.File, error) {
	if ns, err := openNamespace(path); ns != nil || err != nil {
		return ns, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o400)
	if err != nil {
		return nil, err
	}
	f.Close()
	err = onThread(home, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin network namespace at %s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return os.Open(path)
}

// adoptNamespace pins a namespace that somebody else made at path too, so that it is found there as long as its network is. The
// caller closes the file.
func adoptNamespace(path string, made *os.File) (*os.File, error) {
	if ns, err := openNamespace(path); ns != nil || err != nil {
		return ns, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o400)
	if err != nil {
		return nil, err
	}
	f.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", made.Fd()), path, "", unix.MS_BIND, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("pin network namespace %s at %s: %w", made.Name(), path, err), os.Remove(path))
	}
	return os.Open(path)
}

// sameFile says whether two open files are the same namespace.
func sameFile(a, b *os.File) bool {
	one, err := a.Stat()
	if err != nil {
		return false
	}
	two, err := b.Stat()
	return err == nil && os.SameFile(one, two)
}

// openNamespace opens the namespace pinned at path, and returns nil when there is none. A file on which nothing is mounted is
// what a crash between creating and mounting leaves; it counts as none.
func openNamespace(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if st.Type != unix.NSFS_MAGIC {
		f.Close()
		return nil, nil
	}
	return f, nil
}

// removeNamespace unpins what is pinned at path; nothing there is no error.
func removeNamespace(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unpin %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// enter runs fn inside the namespace ns.
func enter(ns, home *os.File, fn func() error) error {
	return onThread(home, func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", ns.Name(), err)
		}
		return fn()
	})
}

// cookieOf returns the cookie of the namespace pinned at path; 0 when there is none or the kernel does not tell.
func cookieOf(path string, home *os.File) (cookie uint64, err error) {
	ns, err := openNamespace(path)
	if ns == nil || err != nil {
		return 0, err
	}
	defer ns.Close()
	err = enter(ns, home, func() (err error) {
		cookie, err = netns.Cookie()
		return err
	})
	return cookie, err
}

// onThread runs fn, which may change its network namespace, on a thread of its own and brings the thread home afterwards. A
// thread that cannot come home is not given back to the scheduler: it ends with its goroutine.
func onThread(home *os.File, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := fn()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// RaiseLoopback brings lo up in a network namespace.
func RaiseLoopback(ns *os.File) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	return enter(ns, home, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		defer h.Close()
		return up(h, "lo")
	})
}

// Within runs fn in the network namespace pinned at path, on a thread of its own. Returns [fs.ErrNotExist] if none is pinned there.
func Within(path string, fn func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	ns, err := openNamespace(path)
	if err != nil {
		return err
	}
	if ns == nil {
		return fmt.Errorf("network namespace %s: %w", path, fs.ErrNotExist)
	}
	defer ns.Close()
	return enter(ns, home, fn)
}
