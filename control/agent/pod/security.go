package pod

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/container"
)

// securityOf merges the pod's and the container's security context and checks runAsNonRoot against the image's user. Seccomp
// profiles of the node are in the directory profiles.
func securityOf(p *corev1.Pod, c *corev1.Container, image container.Image, profiles string) (container.Security, error) {
	var out container.Security
	if ps := p.Spec.SecurityContext; ps != nil {
		out.RunAsUser, out.RunAsGroup = ps.RunAsUser, ps.RunAsGroup
		out.RunAsNonRoot = ps.RunAsNonRoot != nil && *ps.RunAsNonRoot
		out.SupplementalGroups = append(out.SupplementalGroups, ps.SupplementalGroups...)
		if ps.FSGroup != nil {
			out.SupplementalGroups = append(out.SupplementalGroups, *ps.FSGroup)
		}
		out.Seccomp = seccomp(ps.SeccompProfile, profiles)
	}
	if cs := c.SecurityContext; cs != nil {
		mergeContainer(&out, cs, profiles)
	}
	if out.Seccomp == "" {
		// Without a word in the pod, upstream leaves the filter off.
		out.Seccomp = "Unconfined"
	}
	return out, nonRoot(p, c, out, image)
}

func mergeContainer(out *container.Security, cs *corev1.SecurityContext, profiles string) {
	if cs.RunAsUser != nil {
		out.RunAsUser = cs.RunAsUser
	}
	if cs.RunAsGroup != nil {
		out.RunAsGroup = cs.RunAsGroup
	}
	if cs.RunAsNonRoot != nil {
		out.RunAsNonRoot = *cs.RunAsNonRoot
	}
	if s := seccomp(cs.SeccompProfile, profiles); s != "" {
		out.Seccomp = s
	}
	out.Privileged = cs.Privileged != nil && *cs.Privileged
	out.ReadOnlyRootFilesystem = cs.ReadOnlyRootFilesystem != nil && *cs.ReadOnlyRootFilesystem
	out.AllowPrivilegeEscalation = cs.AllowPrivilegeEscalation
	if cs.Capabilities != nil {
		for _, name := range cs.Capabilities.Add {
			out.AddCapabilities = append(out.AddCapabilities, string(name))
		}
		for _, name := range cs.Capabilities.Drop {
			out.DropCapabilities = append(out.DropCapabilities, string(name))
		}
	}
}

func seccomp(profile *corev1.SeccompProfile, dir string) string {
	switch {
	case profile == nil:
		return ""
	case profile.Type == corev1.SeccompProfileTypeLocalhost && profile.LocalhostProfile != nil:
		return filepath.Join(dir, *profile.LocalhostProfile)
	}
	return string(profile.Type)
}

// nonRoot refuses a container that must not run as root and would.
func nonRoot(p *corev1.Pod, c *corev1.Container, s container.Security, image container.Image) error {
	if !s.RunAsNonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", fullName(p), c.Name)
	if s.RunAsUser != nil {
		if *s.RunAsUser == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
		}
		return nil
	}
	user, _, _ := strings.Cut(image.User, ":")
	uid, err := strconv.ParseInt(user, 10, 64)
	switch {
	case user == "" || err == nil && uid == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case err != nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", user, where)
	}
	return nil
}
