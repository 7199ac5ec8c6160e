// Package volume makes the volumes of pods on the node, keeps those that show data of the API up to date, and takes them away.
package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/object"
)

// Config is what a Manager needs.
type Config struct {
	// Dir holds a directory for each pod, named by its UID.
	Dir         string
	Client      kubernetes.Interface
	Objects     *object.Store
	Allocatable corev1.ResourceList
	Logger      *slog.Logger
}

type tokenKey struct {
	pod          types.UID
	volume, path string
}

type token struct {
	text  string
	renew time.Time
}

// Manager makes and removes volumes. It is safe for concurrent use on different pods.
type Manager struct {
	cfg Config

	mu     sync.Mutex // guards what follows
	tokens map[tokenKey]token
	// live are the pods whose volumes follow the API, and their next renewal.
	live map[types.UID]*live
}

// live is a pod whose volumes follow the API.
type live struct {
	pod   *corev1.Pod
	timer *time.Timer
	// writing keeps two renewals of a pod apart.
	writing sync.Mutex
}

// New returns a Manager.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, tokens: map[tokenKey]token{}, live: map[types.UID]*live{}}
}

func (m *Manager) podDir(uid string) string { return filepath.Join(m.cfg.Dir, uid) }

func (m *Manager) volumeDir(p *corev1.Pod, v *corev1.Volume) string {
	return filepath.Join(m.podDir(string(p.UID)), "volumes", kindOf(v), v.Name)
}

func kindOf(v *corev1.Volume) string {
	switch {
	case v.EmptyDir != nil:
		return "kubernetes.io~empty-dir"
	case v.ConfigMap != nil:
		return "kubernetes.io~configmap"
	case v.Secret != nil:
		return "kubernetes.io~secret"
	case v.DownwardAPI != nil:
		return "kubernetes.io~downward-api"
	}
	return "kubernetes.io~projected"
}

// Prepare makes all volumes of a pod, or finds them, and keeps them up to date until Remove.
func (m *Manager) Prepare(ctx context.Context, p *corev1.Pod) error {
	m.mu.Lock()
	l := m.live[p.UID]
	if l == nil {
		l = &live{}
		m.live[p.UID] = l
	}
	l.pod = p
	m.mu.Unlock()
	return m.write(ctx, l, p)
}

func (m *Manager) write(ctx context.Context, l *live, p *corev1.Pod) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := ctx.Err(); err != nil {
		// The pod ended while this waited: its volumes must not come back.
		return err
	}
	var expires time.Time
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		t, err := m.one(ctx, p, v)
		if err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
		if !t.IsZero() && (expires.IsZero() || t.Before(expires)) {
			expires = t
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live[p.UID] == l && !expires.IsZero() {
		if l.timer != nil {
			l.timer.Stop()
		}
		l.timer = time.AfterFunc(time.Until(expires), func() { m.Refresh(string(p.UID)) })
	}
	return nil
}

// Refresh writes the volumes of a pod anew from what the API says now. A pod that has none is fine.
func (m *Manager) Refresh(uid string) {
	m.mu.Lock()
	l := m.live[types.UID(uid)]
	m.mu.Unlock()
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := m.write(ctx, l, l.pod); err != nil {
		m.cfg.Logger.Warn("refresh volumes", "pod", l.pod.Namespace+"/"+l.pod.Name, "err", err)
		time.AfterFunc(10*time.Second, func() { m.Refresh(uid) })
	}
}

func (m *Manager) one(ctx context.Context, p *corev1.Pod, v *corev1.Volume) (time.Time, error) {
	var group *int64
	if p.Spec.SecurityContext != nil {
		group = p.Spec.SecurityContext.FSGroup
	}
	switch {
	case v.HostPath != nil:
		return time.Time{}, checkHostPath(v.HostPath)
	case v.EmptyDir != nil:
		return time.Time{}, emptyDir(m.volumeDir(p, v), v.EmptyDir, group)
	}
	c, ok, err := m.collect(ctx, p, v)
	switch {
	case err != nil:
		return time.Time{}, err
	case !ok:
		return time.Time{}, errors.New("this kind of volume is not supported by the node")
	}
	dir := m.volumeDir(p, v)
	// The data is in memory: secrets do not belong on the disk.
	if err := mountMemory(dir, 0); err != nil {
		return time.Time{}, err
	}
	return c.expires, Write(dir, c.files, group)
}

func emptyDir(dir string, s *corev1.EmptyDirVolumeSource, group *int64) error {
	if s.Medium == corev1.StorageMediumMemory {
		var size int64
		if s.SizeLimit != nil {
			size = s.SizeLimit.Value()
		}
		if err := mountMemory(dir, size); err != nil {
			return err
		}
	} else if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	perm := os.ModePerm
	if group != nil {
		if err := os.Chown(dir, -1, int(*group)); err != nil {
			return err
		}
		perm |= os.ModeSetgid
	}
	return os.Chmod(dir, perm)
}

// mountMemory mounts a tmpfs at dir unless one is there; size 0 leaves the kernel's default.
func mountMemory(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	var here, parent unix.Stat_t
	if unix.Stat(dir, &here) == nil && unix.Stat(filepath.Dir(dir), &parent) == nil && here.Dev != parent.Dev {
		return nil
	}
	options := "mode=0777"
	if size > 0 {
		options += fmt.Sprintf(",size=%d", size)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

// checkHostPath checks that what is there is what the pod asks for, and creates it if the pod asks for that.
func checkHostPath(s *corev1.HostPathVolumeSource) error {
	if s.Type == nil || *s.Type == corev1.HostPathUnset {
		return nil
	}
	switch *s.Type {
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(s.Path, 0o755); err != nil {
			return err
		}
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(s.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		f.Close()
	}
	info, err := os.Stat(s.Path)
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", s.Path, strings.ToLower(string(*s.Type)))
	}
	kind := info.Mode()
	ok := map[corev1.HostPathType]bool{
		corev1.HostPathDirectory: kind.IsDir(), corev1.HostPathDirectoryOrCreate: kind.IsDir(),
		corev1.HostPathFile: kind.IsRegular(), corev1.HostPathFileOrCreate: kind.IsRegular(),
		corev1.HostPathSocket: kind&os.ModeSocket != 0, corev1.HostPathCharDev: kind&os.ModeCharDevice != 0,
		corev1.HostPathBlockDev: kind&os.ModeDevice != 0 && kind&os.ModeCharDevice == 0,
	}[*s.Type]
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", s.Path, strings.ToLower(string(*s.Type)))
	}
	return nil
}

// Mounts resolves the volume mounts of one container to paths on the host.
func (m *Manager) Mounts(p *corev1.Pod, c *corev1.Container) ([]container.Mount, error) {
	var out []container.Mount
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		j := slices.IndexFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == vm.Name })
		if j < 0 {
			return nil, fmt.Errorf("volume %s of container %s does not exist", vm.Name, c.Name)
		}
		v := &p.Spec.Volumes[j]
		source := m.volumeDir(p, v)
		if v.HostPath != nil {
			source = v.HostPath.Path
		}
		source, err := m.below(p, c, source, vm)
		if err != nil {
			return nil, err
		}
		out = append(out, container.Mount{Source: source, Target: vm.MountPath, ReadOnly: vm.ReadOnly, Propagation: propagation(vm)})
	}
	return out, nil
}

func propagation(vm *corev1.VolumeMount) string {
	if vm.MountPropagation == nil {
		return "private"
	}
	switch *vm.MountPropagation {
	case corev1.MountPropagationHostToContainer:
		return "rslave"
	case corev1.MountPropagationBidirectional:
		return "rshared"
	}
	return "private"
}

// Remove unmounts and removes all that a pod has on the node.
func (m *Manager) Remove(_ context.Context, uid string) error {
	m.mu.Lock()
	l := m.live[types.UID(uid)]
	delete(m.live, types.UID(uid))
	for k := range m.tokens {
		if string(k.pod) == uid {
			delete(m.tokens, k)
		}
	}
	m.mu.Unlock()
	if l != nil {
		// A renewal that is under way must end before its files go.
		l.writing.Lock()
		defer l.writing.Unlock()
		if l.timer != nil {
			l.timer.Stop()
		}
	}
	return m.clear(uid)
}

// clear never walks into a mount: all mounts go first, and if one stays nothing is removed, since what is behind it is not ours.
func (m *Manager) clear(uid string) error {
	dir := m.podDir(uid)
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var mounts []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			mounts = append(mounts, f[4])
		}
	}
	for _, path := range slices.Backward(mounts) {
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return os.RemoveAll(dir)
}

// Retain removes what is left of all pods but these.
func (m *Manager) Retain(ctx context.Context, uids []string) error {
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, e := range entries {
		if !slices.Contains(uids, e.Name()) {
			if err := m.Remove(ctx, e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}
