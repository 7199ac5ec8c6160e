package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateProbes checks the probes and the lifecycle hooks of a container that can have them. Grace is the pod's grace period in seconds.
func validateProbes(c *corev1.Container, grace *int64, os *corev1.PodOS, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Lifecycle != nil {
		errs = append(errs, validateLifecycle(c.Lifecycle, grace, os, path.Child("lifecycle"))...)
	}
	errs = append(errs, validateKillingProbe(c.LivenessProbe, grace, path.Child("livenessProbe"))...)
	errs = append(errs, validateProbe(c.ReadinessProbe, grace, path.Child("readinessProbe"))...)
	if p := c.ReadinessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(path.Child("readinessProbe", "terminationGracePeriodSeconds"), *p.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	return append(errs, validateKillingProbe(c.StartupProbe, grace, path.Child("startupProbe"))...)
}

// validateKillingProbe checks a probe whose failure restarts the container: one success must be enough.
func validateKillingProbe(p *corev1.Probe, grace *int64, path *field.Path) field.ErrorList {
	errs := validateProbe(p, grace, path)
	if p != nil && p.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(path.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	return errs
}

func validateProbe(p *corev1.Probe, grace *int64, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := validateHandler(handler{p.Exec, p.HTTPGet, p.TCPSocket, p.GRPC, nil}, grace, path)
	errs = append(errs, nonnegative(path.Child("initialDelaySeconds"), p.InitialDelaySeconds)...)
	errs = append(errs, nonnegative(path.Child("timeoutSeconds"), p.TimeoutSeconds)...)
	errs = append(errs, nonnegative(path.Child("periodSeconds"), p.PeriodSeconds)...)
	errs = append(errs, nonnegative(path.Child("successThreshold"), p.SuccessThreshold)...)
	errs = append(errs, nonnegative(path.Child("failureThreshold"), p.FailureThreshold)...)
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
	return errs
}

func validateLifecycle(l *corev1.Lifecycle, grace *int64, os *corev1.PodOS, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if h := l.PostStart; h != nil {
		errs = append(errs, validateHandler(handler{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep}, grace, path.Child("postStart"))...)
	}
	if h := l.PreStop; h != nil {
		errs = append(errs, validateHandler(handler{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep}, grace, path.Child("preStop"))...)
	}
	if l.StopSignal != nil && os == nil {
		errs = append(errs, field.Forbidden(path.Child("stopSignal"), "may not be set for containers with empty `spec.os.name`"))
	}
	return errs
}

// handler is what probes and lifecycle hooks have in common.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func validateHandler(h handler, grace *int64, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	found := false
	check := func(name string, set bool, validate func(*field.Path) field.ErrorList) {
		switch {
		case !set:
		case found:
			errs = append(errs, field.Forbidden(path.Child(name), "may not specify more than 1 handler type"))
		default:
			found = true
			errs = append(errs, validate(path.Child(name))...)
		}
	}
	check("exec", h.exec != nil, func(p *field.Path) field.ErrorList {
		if len(h.exec.Command) == 0 {
			return required(p.Child("command"), "")
		}
		return nil
	})
	check("httpGet", h.http != nil, func(p *field.Path) field.ErrorList { return validateHTTPGet(h.http, p) })
	check("tcpSocket", h.tcp != nil, func(p *field.Path) field.ErrorList { return validatePort(h.tcp.Port, p.Child("port")) })
	check("grpc", h.grpc != nil, func(p *field.Path) field.ErrorList {
		return validatePort(intstr.FromInt32(h.grpc.Port), p.Child("port"))
	})
	check("sleep", h.sleep != nil, func(p *field.Path) field.ErrorList { return validateSleep(h.sleep.Seconds, grace, p) })
	if !found {
		errs = append(errs, field.Required(path, "must specify a handler type"))
	}
	return errs
}

func validateHTTPGet(get *corev1.HTTPGetAction, path *field.Path) field.ErrorList {
	errs := required(path.Child("path"), get.Path)
	errs = append(errs, validatePort(get.Port, path.Child("port"))...)
	errs = append(errs, supportedOnly(path.Child("scheme"), get.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, h := range get.HTTPHeaders {
		errs = append(errs, invalid(path.Child("httpHeaders"), h.Name, validation.IsHTTPHeaderName(h.Name))...)
	}
	return errs
}

func validateSleep(seconds int64, grace *int64, path *field.Path) field.ErrorList {
	if grace != nil && (seconds < 0 || seconds > *grace) {
		return field.ErrorList{field.Invalid(path, seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))}
	}
	return nil
}

func validatePort(port intstr.IntOrString, path *field.Path) field.ErrorList {
	if port.Type == intstr.String {
		return invalid(path, port.StrVal, validation.IsValidPortName(port.StrVal))
	}
	return invalid(path, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
}
