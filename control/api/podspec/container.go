package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateContainers(spec *corev1.PodSpec, vols volumes, path *field.Path) field.ErrorList {
	if len(spec.Containers) == 0 {
		return required(path, "")
	}
	var errs field.ErrorList
	names, ports := sets.New[string](), sets.New[string]()
	var conflicts field.ErrorList
	for i := range spec.Containers {
		c, at := &spec.Containers[i], path.Index(i)
		errs = append(errs, validateContainer(c, spec, vols, at)...)
		if names.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		names.Insert(c.Name)
		errs = append(errs, validateProbes(c, spec.TerminationGracePeriodSeconds, spec.OS, at)...)
		if c.RestartPolicy != nil {
			errs = append(errs, validateContainerRestart(c, at)...)
		}
		conflicts = append(conflicts, hostPortConflicts(c.Ports, ports, at.Child("ports"))...)
	}
	return append(errs, conflicts...)
}

func validateInitContainers(spec *corev1.PodSpec, vols volumes, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for _, c := range spec.Containers {
		names.Insert(c.Name)
	}
	for i := range spec.InitContainers {
		c, at := &spec.InitContainers[i], path.Index(i)
		errs = append(errs, validateContainer(c, spec, vols, at)...)
		if c.RestartPolicy != nil {
			errs = append(errs, validateContainerRestart(c, at)...)
		}
		if names.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		names.Insert(c.Name)
		errs = append(errs, hostPortConflicts(c.Ports, sets.New[string](), at.Child("ports"))...)
		if isSidecar(c) {
			errs = append(errs, validateProbes(c, spec.TerminationGracePeriodSeconds, spec.OS, at)...)
			continue
		}
		for _, hook := range []struct {
			name string
			set  bool
		}{
			{"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil},
			{"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
		} {
			if hook.set {
				errs = append(errs, field.Forbidden(at.Child(hook.name), "may not be set for init containers without restartPolicy=Always"))
			}
		}
	}
	return errs
}

// isSidecar says whether an init container keeps running beside the containers.
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func validateContainerRestart(c *corev1.Container, path *field.Path) field.ErrorList {
	return supportedOnly(path.Child("restartPolicy"), *c.RestartPolicy, corev1.ContainerRestartPolicyAlways,
		corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
}

func validateContainer(c *corev1.Container, spec *corev1.PodSpec, vols volumes, path *field.Path) field.ErrorList {
	errs := required(path.Child("name"), c.Name)
	if c.Name != "" {
		errs = label(path.Child("name"), c.Name)
	}
	errs = append(errs, required(path.Child("image"), c.Image)...)
	errs = append(errs, oneOf(path.Child("terminationMessagePolicy"), c.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, validatePorts(c.Ports, path.Child("ports"))...)
	errs = append(errs, validateEnv(c.Env, path.Child("env"))...)
	errs = append(errs, validateEnvFrom(c.EnvFrom, path.Child("envFrom"))...)
	errs = append(errs, validateMounts(c, vols, path.Child("volumeMounts"))...)
	errs = append(errs, validateDevices(c, vols, path.Child("volumeDevices"))...)
	errs = append(errs, oneOf(path.Child("imagePullPolicy"), c.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, ValidateResources(&c.Resources, path.Child("resources"))...)
	errs = append(errs, validateClaimNames(c.Resources.Claims, spec.ResourceClaims, path.Child("resources", "claims"))...)
	return append(errs, validateSecurityContext(c.SecurityContext, spec.HostUsers == nil || *spec.HostUsers, path.Child("securityContext"))...)
}

func validateClaimNames(claims []corev1.ResourceClaim, declared []corev1.PodResourceClaim, path *field.Path) field.ErrorList {
	known := sets.New[string]()
	for _, d := range declared {
		known.Insert(d.Name)
	}
	var errs field.ErrorList
	for i, c := range claims {
		switch {
		case c.Name == "":
			errs = append(errs, field.Required(path.Index(i), ""))
		case !known.Has(c.Name):
			err := field.NotFound(path.Index(i), c.Name)
			err.Detail = "must be one of the names in pod.spec.resourceClaims which is empty"
			if known.Len() > 0 {
				err.Detail = "must be one of the names in pod.spec.resourceClaims: " + strings.Join(sets.List(known), ", ")
			}
			errs = append(errs, err)
		}
	}
	return errs
}

func validatePorts(ports []corev1.ContainerPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != "" {
			msgs := validation.IsValidPortName(p.Name)
			errs = append(errs, invalid(at.Child("name"), p.Name, msgs)...)
			if len(msgs) == 0 && names.Has(p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names.Insert(p.Name)
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, invalid(at.Child("containerPort"), p.ContainerPort, validation.IsValidPortNum(int(p.ContainerPort)))...)
		}
		if p.HostPort != 0 {
			errs = append(errs, invalid(at.Child("hostPort"), p.HostPort, validation.IsValidPortNum(int(p.HostPort)))...)
		}
		errs = append(errs, oneOf(at.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	return errs
}

// hostPortConflicts reports the host ports that are taken, and takes the others.
func hostPortConflicts(ports []corev1.ContainerPort, taken sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
		if taken.Has(key) {
			errs = append(errs, field.Duplicate(path.Index(i).Child("hostPort"), key))
		}
		taken.Insert(key)
	}
	return errs
}
