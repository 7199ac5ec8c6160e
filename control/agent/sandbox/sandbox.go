// Package sandbox makes what the containers of a pod share: network, IPC and UTS namespaces, cgroup, /dev/shm and the files in
// /etc that the cluster writes. There is no process that holds them: namespaces are pinned to files.
package sandbox

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"github.com/skep-io/skep/control/agent/cgroup"
	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/pod"
	"github.com/skep-io/skep/datapath/podnet"
	"github.com/skep-io/skep/datapath/translate"
	"golang.org/x/sys/unix"
)

// Network gives pods their network. All methods are idempotent.
type Network interface {
	Attach(ctx context.Context, p podnet.Pod) (podnet.Attachment, error)
	Detach(ctx context.Context, uid string) error
	// Retain removes the networks of all pods but these.
	Retain(ctx context.Context, uids []string) error
}

// Config is what a Manager needs.
type Config struct {
	// Dir holds a directory for each pod.
	Dir     string
	Network Network
	Cgroups *cgroup.Tree
	// DNS is the cluster's DNS address, Zone the cluster's domain.
	DNS  netip.Addr
	Zone string
}

// Manager makes and removes sandboxes; it holds no state but what is on the machine. It is safe for concurrent use on different
// pods.
type Manager struct{ cfg Config }

// New returns a Manager.
func New(cfg Config) *Manager { return &Manager{cfg: cfg} }

func (m *Manager) dir(uid string) string { return filepath.Join(m.cfg.Dir, uid) }

// Prepare makes a pod's sandbox, or finds it.
func (m *Manager) Prepare(ctx context.Context, p *corev1.Pod) (pod.Prepared, error) {
	dir := m.dir(string(p.UID))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return pod.Prepared{}, err
	}
	hostname, domain := Names(p, m.cfg.Zone)
	qos := string(pod.QOSClass(p))
	out := pod.Prepared{CgroupParent: m.cfg.Cgroups.PodPath(qos, string(p.UID)), Sysctls: sysctls(p)}
	if err := m.cfg.Cgroups.Create(out.CgroupParent, limits(p)); err != nil {
		return out, err
	}
	if !p.Spec.HostIPC {
		out.IPCNS = filepath.Join(dir, "ipc")
	}
	if !p.Spec.HostNetwork {
		out.UTSNS = filepath.Join(dir, "uts")
		a, err := m.cfg.Network.Attach(ctx, podnet.Pod{UID: string(p.UID), Namespace: p.Namespace, Name: p.Name, Identity: translate.Identity(p)})
		if err != nil {
			return out, err
		}
		out.NetNS, out.IPs = a.NetNS, a.IPs
	}
	visible := hostname
	if p.Spec.SetHostnameAsFQDN != nil && *p.Spec.SetHostnameAsFQDN && domain != "" {
		visible = hostname + "." + domain
	}
	if err := pin(out.IPCNS, out.UTSNS, visible); err != nil {
		return out, err
	}
	var err error
	out.Mounts, err = m.files(p, dir, out.IPs, hostname, domain)
	return out, err
}

// files writes the pod's files and returns where they go.
func (m *Manager) files(p *corev1.Pod, dir string, ips []netip.Addr, hostname, domain string) ([]container.Mount, error) {
	hostResolver, _ := os.ReadFile("/etc/resolv.conf")
	hostHosts, _ := os.ReadFile("/etc/hosts")
	resolver := ResolverFor(p, ParseResolver(string(hostResolver)), m.cfg.DNS, m.cfg.Zone)
	var mounts []container.Mount
	for _, f := range []struct{ name, text string }{
		{"hosts", Hosts(p, ips, hostname, domain, string(hostHosts))},
		{"hostname", hostname + "\n"},
		{"resolv.conf", resolver.String()},
	} {
		if f.name == "hostname" && p.Spec.HostNetwork {
			continue
		}
		path := filepath.Join(dir, f.name)
		// Written in place: running containers have this very file mounted.
		if err := os.WriteFile(path, []byte(f.text), 0o644); err != nil {
			return nil, err
		}
		mounts = append(mounts, container.Mount{Source: path, Target: "/etc/" + f.name})
	}
	if p.Spec.HostIPC {
		return append(mounts, container.Mount{Source: "/dev/shm", Target: "/dev/shm"}), nil
	}
	shm := filepath.Join(dir, "shm")
	if err := memoryDir(shm); err != nil {
		return nil, err
	}
	return append(mounts, container.Mount{Source: shm, Target: "/dev/shm"}), nil
}

func memoryDir(path string) error {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) == nil && st.Type == unix.TMPFS_MAGIC && mountPoint(path) {
		return nil
	}
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if err := unix.Mount("shm", path, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=65536k"); err != nil {
		return fmt.Errorf("mount %s: %w", path, err)
	}
	return nil
}

// mountPoint says that a directory is on another file system than its parent.
func mountPoint(path string) bool {
	var a, b unix.Stat_t
	return unix.Stat(path, &a) == nil && unix.Stat(filepath.Dir(path), &b) == nil && a.Dev != b.Dev
}

// Remove takes a pod's sandbox away.
func (m *Manager) Remove(ctx context.Context, uid string) error {
	if err := m.cfg.Network.Detach(ctx, uid); err != nil {
		return err
	}
	for _, name := range []string{"ipc", "uts", "shm"} {
		if err := unpin(filepath.Join(m.dir(uid), name)); err != nil {
			return err
		}
	}
	for _, qos := range []string{"Guaranteed", "Burstable", "BestEffort"} {
		if err := m.cfg.Cgroups.Remove(m.cfg.Cgroups.PodPath(qos, uid)); err != nil {
			return err
		}
	}
	return os.RemoveAll(m.dir(uid))
}

// Retain removes the sandboxes of all pods but these.
func (m *Manager) Retain(ctx context.Context, uids []string) error {
	if err := m.cfg.Network.Retain(ctx, uids); err != nil {
		return err
	}
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

func sysctls(p *corev1.Pod) map[string]string {
	if p.Spec.SecurityContext == nil {
		return nil
	}
	out := map[string]string{}
	for _, s := range p.Spec.SecurityContext.Sysctls {
		out[s.Name] = s.Value
	}
	return out
}

// limits of a pod's cgroup: the sum of what its containers may use.
func limits(p *corev1.Pod) cgroup.Limits {
	requests, most := resource.PodRequests(p, resource.PodResourcesOptions{}), resource.PodLimits(p, resource.PodResourcesOptions{})
	out := cgroup.Limits{CPUShares: pod.Shares(requests.Cpu().MilliValue()), CPUPeriod: 100000}
	if bounded(p, corev1.ResourceCPU) {
		out.CPUQuota = pod.Quota(most.Cpu().MilliValue())
	}
	if bounded(p, corev1.ResourceMemory) {
		out.Memory = most.Memory().Value()
	}
	return out
}

// bounded says that every container has a limit: one without makes the pod's sum meaningless.
func bounded(p *corev1.Pod, name corev1.ResourceName) bool {
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if _, ok := c.Resources.Limits[name]; !ok {
			return false
		}
	}
	return true
}
