package pod

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/container"
)

// defaultTerminationLog is where a container leaves its last words unless it says otherwise.
const defaultTerminationLog = "/dev/termination-log"

// configure computes a container's configuration and makes the files that it names.
func (cfg *Config) configure(ctx context.Context, p *corev1.Pod, c *corev1.Container, shared Prepared, image container.Image, attempt uint32) (container.Config, error) {
	env, err := cfg.Inputs.Env(ctx, withAddresses(p, cfg, shared), c)
	if err != nil {
		return container.Config{}, err
	}
	mounts, err := cfg.Volumes.Mounts(p, c)
	if err != nil {
		return container.Config{}, err
	}
	security, err := securityOf(p, c, image, cfg.SeccompDir)
	if err != nil {
		return container.Config{}, err
	}
	security.Sysctls = shared.Sysctls
	out := container.Config{
		PodUID: p.UID, PodNamespace: p.Namespace, PodName: p.Name, Name: c.Name, Attempt: attempt, Init: isInit(p, c.Name),
		Image: c.Image, WorkingDir: c.WorkingDir, Env: env,
		Command: expand(c.Command, env), Args: expand(c.Args, env),
		TTY: c.TTY, Stdin: c.Stdin, StdinOnce: c.StdinOnce,
		Mounts: overlay(shared.Mounts, mounts),
		NetNS:  shared.NetNS, IPCNS: shared.IPCNS, UTSNS: shared.UTSNS, HostPID: p.Spec.HostPID,
		CgroupParent: shared.CgroupParent, Resources: resources(p, c), Security: security,
		LogPath: filepath.Join(cfg.LogDir, fmt.Sprintf("%s_%s_%s", p.Namespace, p.Name, p.UID), c.Name, strconv.Itoa(int(attempt))+".log"),
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		out.StopSignal = string(*c.Lifecycle.StopSignal)
	}
	if err := os.MkdirAll(filepath.Dir(out.LogPath), 0o755); err != nil {
		return container.Config{}, err
	}
	return out, cfg.terminationLog(&out, p, c, attempt)
}

// terminationLog makes the file that the container writes its last words to.
func (cfg *Config) terminationLog(out *container.Config, p *corev1.Pod, c *corev1.Container, attempt uint32) error {
	target := c.TerminationMessagePath
	if target == "" {
		target = defaultTerminationLog
	}
	dir := filepath.Join(cfg.PodsDir, string(p.UID), "containers", c.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	path := filepath.Join(dir, strconv.Itoa(int(attempt)))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	// The container may run as any user; the umask must not keep it from writing.
	if err := f.Chmod(0o666); err != nil {
		f.Close()
		return err
	}
	out.TerminationMessagePath = path
	out.Mounts = append(out.Mounts, container.Mount{Source: path, Target: target})
	return f.Close()
}

// overlay puts the user's mounts over the pod's own files: a user who mounts a volume at /etc/hosts means it.
func overlay(own, user []container.Mount) []container.Mount {
	taken := map[string]bool{}
	for _, m := range user {
		taken[filepath.Clean(m.Target)] = true
	}
	var out []container.Mount
	for _, m := range own {
		if !taken[m.Target] {
			out = append(out, m)
		}
	}
	return append(out, user...)
}

// withAddresses is the pod with the addresses that it is about to report, for the downward API.
func withAddresses(p *corev1.Pod, cfg *Config, shared Prepared) *corev1.Pod {
	out := *p
	out.Status.HostIPs, out.Status.PodIPs = nil, nil
	for _, ip := range cfg.HostIPs {
		out.Status.HostIPs = append(out.Status.HostIPs, corev1.HostIP{IP: ip.String()})
	}
	ips := shared.IPs
	if p.Spec.HostNetwork {
		ips = cfg.HostIPs
	}
	for _, ip := range ips {
		out.Status.PodIPs = append(out.Status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	if len(out.Status.HostIPs) > 0 {
		out.Status.HostIP = out.Status.HostIPs[0].IP
	}
	if len(out.Status.PodIPs) > 0 {
		out.Status.PodIP = out.Status.PodIPs[0].IP
	}
	return &out
}
