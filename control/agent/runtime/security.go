package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skep-io/skep/control/agent/cgroup"
	"github.com/skep-io/skep/control/agent/container"
)

// host is what specs depend on of the machine.
type host struct {
	// unified says that the host has cgroup v2 alone.
	unified    bool
	cgroupRoot string
	// capabilities are those that this process may give.
	capabilities []string
	// oomScore is this process's own; lowersOOMScore says that a lower one may be given.
	oomScore       int
	lowersOOMScore bool
}

func probeHost(tree *cgroup.Tree) host {
	h := host{unified: tree.Mode() == cgroup.V2, cgroupRoot: "/sys/fs/cgroup"}
	h.capabilities, _ = cap.Current()
	h.oomScore, h.lowersOOMScore = probeOOMScore("/proc/self/oom_score_adj")
	return h
}

// probeOOMScore tries to lower the process's own score by one and sets it back, which is always allowed.
func probeOOMScore(file string) (score int, lowers bool) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	score, err = strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, false
	}
	if os.WriteFile(file, []byte(strconv.Itoa(max(score-1, -1000))), 0) != nil {
		return score, false
	}
	_ = os.WriteFile(file, []byte(strconv.Itoa(score)), 0)
	return score, true
}

// defaultCapabilities are what containerd's CRI gives.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP",
		"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// capabilities are the defaults with the drops and then the additions applied. runc clears the effective set of a user that
// is not root when it executes the program, as the kernel does for any other.
func capabilities(s container.Security, all []string) *specs.LinuxCapabilities {
	set := defaultCapabilities()
	if s.Privileged {
		set = slices.Clone(all)
	}
	for _, name := range s.DropCapabilities {
		if strings.EqualFold(name, "ALL") {
			set = nil
		}
		set = slices.DeleteFunc(set, func(c string) bool { return c == capability(name) })
	}
	for _, name := range s.AddCapabilities {
		if strings.EqualFold(name, "ALL") {
			set = slices.Clone(all)
			for _, drop := range s.DropCapabilities {
				set = slices.DeleteFunc(set, func(c string) bool { return c == capability(drop) })
			}
			continue
		}
		if c := capability(name); !slices.Contains(set, c) {
			set = append(set, c)
		}
	}
	return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}
}

func capability(name string) string {
	name = strings.ToUpper(name)
	if strings.HasPrefix(name, "CAP_") {
		return name
	}
	return "CAP_" + name
}

// setSeccomp applies the profile. Returns an error if a profile file cannot be read.
func setSeccomp(s *specs.Spec, security container.Security) error {
	switch {
	case security.Privileged || security.Seccomp == "Unconfined":
	case security.Seccomp == "" || security.Seccomp == "RuntimeDefault":
		s.Linux.Seccomp = seccomp.DefaultProfile(s)
	default:
		data, err := os.ReadFile(security.Seccomp)
		if err != nil {
			return fmt.Errorf("seccomp profile: %w", err)
		}
		s.Linux.Seccomp = &specs.LinuxSeccomp{}
		if err := json.Unmarshal(data, s.Linux.Seccomp); err != nil {
			return fmt.Errorf("seccomp profile %s: %w", security.Seccomp, err)
		}
	}
	return nil
}

// addHostDevices gives a privileged container the devices of the host.
func addHostDevices(ctx context.Context, s *specs.Spec) error {
	if err := oci.WithHostDevices(ctx, nil, nil, s); err != nil {
		return fmt.Errorf("host devices: %w", err)
	}
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	return nil
}
