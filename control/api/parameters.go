package api

import (
	"net/url"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// addParameters registers how query parameters become the options of pod, node and service subresources.
func addParameters(scheme *runtime.Scheme) error {
	for _, p := range []struct {
		options any
		convert func(values url.Values, options any) error
	}{
		{(*corev1.PodLogOptions)(nil), parameters(logParameters)},
		{(*corev1.PodExecOptions)(nil), parameters(execParameters)},
		{(*corev1.PodAttachOptions)(nil), parameters(attachParameters)},
		{(*corev1.PodPortForwardOptions)(nil), parameters(portForwardParameters)},
		{(*corev1.PodProxyOptions)(nil), parameters(func(v url.Values, o *corev1.PodProxyOptions) error { return text(v, "path", &o.Path) })},
		{(*corev1.NodeProxyOptions)(nil), parameters(func(v url.Values, o *corev1.NodeProxyOptions) error { return text(v, "path", &o.Path) })},
		{(*corev1.ServiceProxyOptions)(nil), parameters(func(v url.Values, o *corev1.ServiceProxyOptions) error { return text(v, "path", &o.Path) })},
	} {
		err := scheme.AddConversionFunc((*url.Values)(nil), p.options, func(in, out any, _ conversion.Scope) error {
			return p.convert(*in.(*url.Values), out)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// parameters lets a conversion be written for its own options type.
func parameters[T any](f func(url.Values, *T) error) func(url.Values, any) error {
	return func(v url.Values, options any) error { return f(v, options.(*T)) }
}

// decode sets out from the values of a parameter, and leaves its zero value where the parameter is absent.
func decode[T any](v url.Values, key string, out *T, convert func(*[]string, *T, conversion.Scope) error) error {
	values, ok := v[key]
	if !ok || len(values) == 0 {
		return nil
	}
	return convert(&values, out, nil)
}

func text(v url.Values, key string, out *string) error {
	return decode(v, key, out, runtime.Convert_Slice_string_To_string)
}

func flag(v url.Values, key string, out *bool) error {
	return decode(v, key, out, runtime.Convert_Slice_string_To_bool)
}

func number(v url.Values, key string, out **int64) error {
	return decode(v, key, out, runtime.Convert_Slice_string_To_Pointer_int64)
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func logParameters(v url.Values, o *corev1.PodLogOptions) error {
	if stream, ok := v["stream"]; ok && len(stream) > 0 {
		o.Stream = &stream[0]
	}
	return first(
		text(v, "container", &o.Container),
		flag(v, "follow", &o.Follow),
		flag(v, "previous", &o.Previous),
		number(v, "sinceSeconds", &o.SinceSeconds),
		decode(v, "sinceTime", &o.SinceTime, metav1.Convert_Slice_string_To_Pointer_v1_Time),
		flag(v, "timestamps", &o.Timestamps),
		number(v, "tailLines", &o.TailLines),
		number(v, "limitBytes", &o.LimitBytes),
		flag(v, "insecureSkipTLSVerifyBackend", &o.InsecureSkipTLSVerifyBackend),
	)
}

func execParameters(v url.Values, o *corev1.PodExecOptions) error {
	o.Command = append([]string(nil), v["command"]...)
	return first(
		flag(v, "stdin", &o.Stdin),
		flag(v, "stdout", &o.Stdout),
		flag(v, "stderr", &o.Stderr),
		flag(v, "tty", &o.TTY),
		text(v, "container", &o.Container),
	)
}

func attachParameters(v url.Values, o *corev1.PodAttachOptions) error {
	return first(
		flag(v, "stdin", &o.Stdin),
		flag(v, "stdout", &o.Stdout),
		flag(v, "stderr", &o.Stderr),
		flag(v, "tty", &o.TTY),
		text(v, "container", &o.Container),
	)
}

func portForwardParameters(v url.Values, o *corev1.PodPortForwardOptions) error {
	return decode(v, "ports", &o.Ports, metav1.Convert_Slice_string_To_Slice_int32)
}
