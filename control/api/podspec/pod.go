package podspec

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidatePod checks a new pod, which must have its defaults, beyond what every object's metadata is checked for.
func ValidatePod(pod *corev1.Pod) field.ErrorList {
	errs := validatePod(pod)
	path := field.NewPath("spec")
	if len(pod.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return errs
}

// ValidateTemplate checks the template of a workload, which must have its defaults. Which restart policies a workload allows is
// for the caller to check.
func ValidateTemplate(template *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(template.Labels, path.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(template.Annotations, path.Child("annotations"))...)
	errs = append(errs, validateSpec(&template.Spec, "", path.Child("spec"))...)
	errs = append(errs, validateHostNetwork(&template.Spec, false, path.Child("spec"))...)
	if len(template.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// validatePod checks what holds for a pod at any time.
func validatePod(pod *corev1.Pod) field.ErrorList {
	spec, path := &pod.Spec, field.NewPath("spec")
	errs := validateSpec(spec, pod.Name, path)
	errs = append(errs, validateHostNetwork(spec, true, path)...)
	if spec.TerminationGracePeriodSeconds != nil {
		errs = append(errs, nonnegative(path.Child("terminationGracePeriodSeconds"), *spec.TerminationGracePeriodSeconds)...)
	}
	errs = append(errs, validateImageSpace(spec.Containers, path.Child("containers"))...)
	return append(errs, validateImageSpace(spec.InitContainers, path.Child("initContainers"))...)
}

func validateImageSpace(containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range containers {
		if strings.TrimSpace(c.Image) != c.Image {
			errs = append(errs, field.Invalid(path.Index(i).Child("image"), c.Image, "must not have leading or trailing whitespace"))
		}
	}
	return errs
}

func validateSpec(spec *corev1.PodSpec, podName string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.TerminationGracePeriodSeconds == nil {
		errs = append(errs, field.Required(path.Child("terminationGracePeriodSeconds"), ""))
	}
	vols, wrong := validateVolumes(spec.Volumes, podName, path.Child("volumes"))
	errs = append(errs, wrong...)
	errs = append(errs, validateContainers(spec, vols, path.Child("containers"))...)
	errs = append(errs, validateInitContainers(spec, vols, path.Child("initContainers"))...)
	errs = append(errs, validateEphemeralContainers(spec, vols, path.Child("ephemeralContainers"))...)
	errs = append(errs, oneOf(path.Child("restartPolicy"), spec.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, oneOf(path.Child("dnsPolicy"), spec.DNSPolicy, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	errs = append(errs, validatePodSecurityContext(spec, path.Child("securityContext"))...)
	if spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace && spec.HostPID {
		errs = append(errs, field.Invalid(path.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	errs = append(errs, validatePlacement(spec, path)...)
	errs = append(errs, validateDNSConfig(spec, path.Child("dnsConfig"))...)
	errs = append(errs, validateNames(spec, path)...)
	if d := spec.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	overhead := corev1.ResourceRequirements{Limits: spec.Overhead}
	for _, err := range ValidateResources(&overhead, path) {
		err.Field = strings.Replace(err.Field, path.Child("limits").String(), path.Child("overhead").String(), 1)
		errs = append(errs, err)
	}
	if spec.OS != nil {
		errs = append(errs, oneOf(path.Child("os", "name"), spec.OS.Name, corev1.Linux, corev1.Windows)...)
	}
	return errs
}

// validatePlacement checks what decides where and when the pod runs.
func validatePlacement(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(spec.NodeSelector, path.Child("nodeSelector"))
	errs = append(errs, validateAffinity(spec.Affinity, path.Child("affinity"))...)
	for i, g := range spec.ReadinessGates {
		errs = append(errs, qualifiedName(path.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType))...)
	}
	seen := sets.New[string]()
	for i, g := range spec.SchedulingGates {
		at := path.Child("schedulingGates").Index(i)
		errs = append(errs, qualifiedName(at, g.Name)...)
		if seen.Has(g.Name) {
			errs = append(errs, field.Duplicate(at, g.Name))
		}
		seen.Insert(g.Name)
	}
	errs = append(errs, validateSpread(spec.TopologySpreadConstraints, path.Child("topologySpreadConstraints"))...)
	errs = append(errs, validateTolerations(spec.Tolerations, path.Child("tolerations"))...)
	if p := spec.PreemptionPolicy; p != nil {
		errs = append(errs, oneOf(path.Child("preemptionPolicy"), *p, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

// validateNames checks the names that the pod has and refers to.
func validateNames(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(name, value string, validate func(*field.Path, string) field.ErrorList) {
		if value != "" {
			errs = append(errs, validate(path.Child(name), value)...)
		}
	}
	check("serviceAccountName", spec.ServiceAccountName, subdomain)
	check("nodeName", spec.NodeName, subdomain)
	check("hostname", spec.Hostname, label)
	check("subdomain", spec.Subdomain, label)
	check("priorityClassName", spec.PriorityClassName, subdomain)
	if spec.RuntimeClassName != nil {
		errs = append(errs, subdomain(path.Child("runtimeClassName"), *spec.RuntimeClassName)...)
	}
	for i, a := range spec.HostAliases {
		at := path.Child("hostAliases").Index(i)
		errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), a.IP, true, nil)...)
		for j, h := range a.Hostnames {
			errs = append(errs, subdomain(at.Child("hostnames").Index(j), h)...)
		}
	}
	return errs
}

// validateHostNetwork checks that host ports are the ports of the containers; templates may leave them to the defaults of their pods.
func validateHostNetwork(spec *corev1.PodSpec, isPod bool, path *field.Path) field.ErrorList {
	if !spec.HostNetwork {
		return nil
	}
	var errs field.ErrorList
	for i, c := range spec.Containers {
		for j, p := range c.Ports {
			if (isPod || p.HostPort != 0) && p.HostPort != p.ContainerPort {
				errs = append(errs, field.Invalid(path.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort, "must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
	return errs
}

func validateEphemeralContainers(spec *corev1.PodSpec, vols volumes, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for _, c := range runContainers(spec) {
		names.Insert(c.Name)
	}
	for i := range spec.EphemeralContainers {
		e, at := &spec.EphemeralContainers[i], path.Index(i)
		errs = append(errs, validateContainer((*corev1.Container)(&e.EphemeralContainerCommon), spec, vols, at)...)
		if names.Has(e.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), e.Name))
		}
		names.Insert(e.Name)
	}
	return errs
}
