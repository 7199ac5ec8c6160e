package load

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	bpffs = "/sys/fs/bpf"
	// mountSource marks, in the mount table, a file system that this package
	// mounted and therefore unmounts.
	mountSource = "skep"
)

// ensureDir makes the directory for pins, and mounts the BPF file system at
// its usual place if it is not there and dir is below it.
func ensureDir(dir string) error {
	if err := mountFor(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ok, err := isBPFFS(dir)
	if err == nil && !ok {
		err = ErrNotBPFFS
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

func mountFor(dir string) error {
	if !strings.HasPrefix(filepath.Clean(dir), bpffs+"/") {
		return nil
	}
	mounted, err := isBPFFS(bpffs)
	if err != nil {
		return fmt.Errorf("%s: %w", bpffs, err)
	}
	if mounted {
		return nil
	}
	if err := unix.Mount(mountSource, bpffs, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpf file system on %s: %w", bpffs, err)
	}
	return nil
}

// unmount takes away the file system that mountFor mounted, unless others
// have come to use it.
func unmount() error {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	if !strings.Contains("\n"+string(table), "\n"+mountSource+" "+bpffs+" bpf ") {
		return nil
	}
	entries, err := os.ReadDir(bpffs)
	if err != nil || len(entries) > 0 {
		return err
	}
	if err := unix.Unmount(bpffs, 0); err != nil && err != unix.EBUSY {
		return fmt.Errorf("unmount %s: %w", bpffs, err)
	}
	return nil
}

func isBPFFS(path string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, err
	}
	return uint32(st.Type) == unix.BPF_FS_MAGIC, nil
}
