package runtime

import (
	"fmt"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skep-io/skep/control/agent/container"
)

// specInput is all that a container's OCI spec depends on.
type specInput struct {
	id     string
	config container.Config
	image  ocispec.ImageConfig
	user   specs.User
	host   host
}

// buildSpec is a pure translation. Returns an error if the container has no command.
func buildSpec(in specInput) (*specs.Spec, error) {
	args := command(in.config, in.image)
	if len(args) == 0 {
		return nil, fmt.Errorf("no command specified")
	}
	c := in.config
	s := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs", Readonly: c.Security.ReadOnlyRootFilesystem},
		Process: &specs.Process{
			Terminal: c.TTY, User: in.user, Args: args, Env: environment(c, in.image), Cwd: workingDir(c, in.image),
			Capabilities:    capabilities(c.Security, in.host.capabilities),
			NoNewPrivileges: c.Security.AllowPrivilegeEscalation != nil && !*c.Security.AllowPrivilegeEscalation,
			OOMScoreAdj:     oomScore(c.Resources.OOMScoreAdj, in.host),
		},
		Mounts:      mounts(c, in.host),
		Annotations: map[string]string{"io.containerd.runc.v2.group": string(c.PodUID)},
		Linux: &specs.Linux{
			CgroupsPath: ownCgroup(c, in.id),
			Namespaces:  namespaces(c, in.host),
			Resources:   resources(c.Resources, c.Security.Privileged),
			Sysctl:      c.Security.Sysctls,
		},
	}
	if !c.Security.Privileged {
		s.Linux.MaskedPaths = maskedPaths()
		s.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	if slices.ContainsFunc(c.Mounts, func(m container.Mount) bool { return m.Propagation == "rshared" || m.Propagation == "rslave" }) {
		s.Linux.RootfsPropagation = "rslave"
	}
	return s, setSeccomp(s, c.Security)
}

// command joins the image's entry point and arguments with the container's as Kubernetes does: a command drops the image's
// arguments too.
func command(c container.Config, img ocispec.ImageConfig) []string {
	switch {
	case len(c.Command) > 0:
		return slices.Concat(c.Command, c.Args)
	case len(c.Args) > 0:
		return slices.Concat(img.Entrypoint, c.Args)
	}
	return slices.Concat(img.Entrypoint, img.Cmd)
}

// environment is the image's and then the container's; of one name the last value wins, at the place of the first.
func environment(c container.Config, img ocispec.ImageConfig) []string {
	out := []string{}
	at := map[string]int{}
	add := func(name, entry string) {
		if i, ok := at[name]; ok {
			out[i] = entry
			return
		}
		at[name] = len(out)
		out = append(out, entry)
	}
	if !slices.ContainsFunc(img.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		add("PATH", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	if c.TTY {
		add("TERM", "TERM=xterm")
	}
	for _, e := range img.Env {
		name, _, _ := strings.Cut(e, "=")
		add(name, e)
	}
	for _, e := range c.Env {
		add(e.Name, e.Name+"="+e.Value)
	}
	return out
}

func workingDir(c container.Config, img ocispec.ImageConfig) string {
	for _, dir := range []string{c.WorkingDir, img.WorkingDir} {
		if dir != "" {
			return path.Join("/", dir)
		}
	}
	return "/"
}

func namespaces(c container.Config, h host) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if h.unified {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	switch {
	case c.PIDNS != "":
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: c.PIDNS})
	case !c.HostPID:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	for _, ns := range []specs.LinuxNamespace{
		{Type: specs.NetworkNamespace, Path: c.NetNS}, {Type: specs.IPCNamespace, Path: c.IPCNS}, {Type: specs.UTSNamespace, Path: c.UTSNS},
	} {
		if ns.Path != "" {
			out = append(out, ns)
		}
	}
	return out
}

// mounts are the file systems that every container has, then the container's own; an own mount replaces a default one.
func mounts(c container.Config, h host) []specs.Mount {
	ro := "ro"
	if c.Security.Privileged {
		ro = "rw"
	}
	all := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", ro}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", ro}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
	}
	if c.Security.Privileged && !h.unified {
		all[5] = specs.Mount{Destination: "/sys/fs/cgroup", Type: "bind", Source: h.cgroupRoot, Options: []string{"rbind", "rw"}}
	}
	own := map[string]bool{}
	for _, m := range c.Mounts {
		own[path.Clean(m.Target)] = true
	}
	all = slices.DeleteFunc(all, func(m specs.Mount) bool { return own[m.Destination] })
	// A parent must be mounted before what lies in it.
	sorted := slices.Clone(c.Mounts)
	slices.SortStableFunc(sorted, func(a, b container.Mount) int {
		return strings.Count(path.Clean(a.Target), "/") - strings.Count(path.Clean(b.Target), "/")
	})
	for _, m := range sorted {
		all = append(all, bind(m))
	}
	return all
}

func bind(m container.Mount) specs.Mount {
	options := []string{"rbind"}
	switch m.Propagation {
	case "rshared", "rslave":
		options = append(options, m.Propagation)
	default:
		options = append(options, "rprivate")
	}
	if m.ReadOnly {
		options = append(options, "ro")
	} else {
		options = append(options, "rw")
	}
	return specs.Mount{Destination: path.Clean(m.Target), Type: "bind", Source: m.Source, Options: options}
}

func resources(r container.Resources, privileged bool) *specs.LinuxResources {
	out := &specs.LinuxResources{
		CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{},
		Devices: []specs.LinuxDeviceCgroup{{Allow: privileged, Access: "rwm"}},
	}
	if r.CPUShares > 0 {
		shares := min(max(r.CPUShares, 2), 262144)
		out.CPU.Shares = &shares
	}
	if r.CPUQuota > 0 {
		period := r.CPUPeriod
		if period == 0 {
			period = 100_000
		}
		out.CPU.Quota, out.CPU.Period = &r.CPUQuota, &period
	}
	if r.MemoryLimit > 0 {
		out.Memory.Limit = &r.MemoryLimit
	}
	return out
}

func oomScore(want int, h host) *int {
	if !h.lowersOOMScore {
		// The kernel refuses less, and the container would not start.
		want = max(want, h.oomScore)
	}
	return &want
}

func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

// ownCgroup is where a container's processes live.
func ownCgroup(c container.Config, id string) string { return path.Join(c.CgroupParent, id) }
