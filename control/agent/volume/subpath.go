package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// below resolves a subPath inside a volume. What it names is bound to a directory of the agent's own through a descriptor that
// was opened beneath the volume's root, so that a container which swaps a directory for a link in between gains nothing.
func (m *Manager) below(p *corev1.Pod, c *corev1.Container, root string, vm *corev1.VolumeMount) (string, error) {
	if vm.SubPath == "" {
		return root, nil
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	if _, err := dir.Stat(vm.SubPath); os.IsNotExist(err) {
		if err := dir.MkdirAll(vm.SubPath, 0o750); err != nil {
			return "", fmt.Errorf("failed to create subPath directory for volumeMount %q of container %q", vm.Name, c.Name)
		}
	}
	f, err := dir.Open(vm.SubPath)
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, c.Name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	target := filepath.Join(m.podDir(string(p.UID)), "volume-subpaths", vm.Name, c.Name, strconv.Itoa(int(hash(vm.MountPath))))
	unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // An earlier attempt of the container may have bound another file.
	if err := place(target, info.IsDir()); err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind subPath %s of volume %s: %w", vm.SubPath, vm.Name, err)
	}
	return target, nil
}

// place makes an empty directory or file to mount over.
func place(path string, dir bool) error {
	if dir {
		return os.MkdirAll(path, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

func hash(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}
