package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateEnv(vars []corev1.EnvVar, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, v := range vars {
		at := path.Index(i)
		if v.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, invalid(at.Child("name"), v.Name, validation.IsRelaxedEnvVarName(v.Name))...)
		}
		if v.ValueFrom != nil {
			errs = append(errs, validateEnvSource(v.ValueFrom, v.Value, at.Child("valueFrom"))...)
		}
	}
	return errs
}

func validateEnvSource(from *corev1.EnvVarSource, value string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	sources := 0
	if from.FieldRef != nil {
		sources++
		errs = append(errs, validateFieldRef(from.FieldRef, envFields, path.Child("fieldRef"))...)
	}
	if from.ResourceFieldRef != nil {
		sources++
		errs = append(errs, validateResourceFieldRef(from.ResourceFieldRef, false, path.Child("resourceFieldRef"))...)
	}
	if ref := from.ConfigMapKeyRef; ref != nil {
		sources++
		errs = append(errs, validateKeyRef(ref.Name, ref.Key, path.Child("configMapKeyRef"))...)
	}
	if ref := from.SecretKeyRef; ref != nil {
		sources++
		errs = append(errs, validateKeyRef(ref.Name, ref.Key, path.Child("secretKeyRef"))...)
	}
	if ref := from.FileKeyRef; ref != nil {
		sources++
		at := path.Child("fileKeyRef")
		errs = append(errs, required(at.Child("key"), ref.Key)...)
		errs = append(errs, required(at.Child("path"), ref.Path)...)
		errs = append(errs, required(at.Child("volumeName"), ref.VolumeName)...)
		errs = append(errs, nonReserved(at.Child("path"), ref.Path)...)
	}
	switch {
	case sources == 0:
		errs = append(errs, field.Invalid(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case value != "":
		errs = append(errs, field.Invalid(path, "", "may not be specified when `value` is not empty"))
	case sources > 1:
		errs = append(errs, field.Invalid(path, "", oneSourceOnly))
	}
	return errs
}

func validateKeyRef(name, key string, path *field.Path) field.ErrorList {
	return append(subdomain(path.Child("name"), name), required(path.Child("key"), key)...)
}

func validateEnvFrom(sources []corev1.EnvFromSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, s := range sources {
		at := path.Index(i)
		if s.Prefix != "" {
			errs = append(errs, invalid(at.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))...)
		}
		if s.ConfigMapRef != nil {
			errs = append(errs, requiredSubdomain(at.Child("configMapRef", "name"), s.ConfigMapRef.Name)...)
		}
		if s.SecretRef != nil {
			errs = append(errs, requiredSubdomain(at.Child("secretRef", "name"), s.SecretRef.Name)...)
		}
		switch {
		case s.ConfigMapRef == nil && s.SecretRef == nil:
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		case s.ConfigMapRef != nil && s.SecretRef != nil:
			errs = append(errs, field.Invalid(path, "", oneSourceOnly))
		}
	}
	return errs
}

// What of a pod an environment variable, a file and a reference to a container's resources can show.
var (
	envFields = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	fileFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}

	resourceFields = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory"}
)

func validateFieldRef(ref *corev1.ObjectFieldSelector, supported []string, path *field.Path) field.ErrorList {
	if ref.APIVersion == "" {
		return required(path.Child("apiVersion"), "")
	}
	if ref.FieldPath == "" {
		return required(path.Child("fieldPath"), "")
	}
	at := path.Child("fieldPath")
	if ref.APIVersion != "v1" {
		return field.ErrorList{field.Invalid(at, ref.FieldPath, fmt.Sprintf("error converting fieldPath: unsupported pod version: %s", ref.APIVersion))}
	}
	if name, subscript, ok := subscripted(ref.FieldPath); ok {
		switch name {
		case "metadata.annotations":
			return qualifiedName(path, strings.ToLower(subscript))
		case "metadata.labels":
			return qualifiedName(path, subscript)
		}
		return field.ErrorList{field.Invalid(at, ref.FieldPath, "error converting fieldPath: field label does not support subscript: "+ref.FieldPath)}
	}
	if slices.Contains(supported, ref.FieldPath) {
		return nil
	}
	if !slices.Contains(envFields, ref.FieldPath) && !slices.Contains(fileFields, ref.FieldPath) {
		return field.ErrorList{field.Invalid(at, ref.FieldPath, "error converting fieldPath: field label not supported: "+ref.FieldPath)}
	}
	return field.ErrorList{field.NotSupported(at, ref.FieldPath, supported)}
}

// subscripted splits "metadata.labels['app']" into the field and the key.
func subscripted(s string) (name, key string, ok bool) {
	name, key, ok = strings.Cut(s, "['")
	if !ok || name == "" {
		return s, "", false
	}
	key, ok = strings.CutSuffix(key, "']")
	return name, key, ok
}

func validateResourceFieldRef(ref *corev1.ResourceFieldSelector, inVolume bool, path *field.Path) field.ErrorList {
	if inVolume && ref.ContainerName == "" {
		return required(path.Child("containerName"), "")
	}
	if ref.Resource == "" {
		return required(path.Child("resource"), "")
	}
	huge := strings.HasPrefix(ref.Resource, "limits.hugepages-") || strings.HasPrefix(ref.Resource, "requests.hugepages-")
	if !huge && !slices.Contains(resourceFields, ref.Resource) {
		return field.ErrorList{field.NotSupported(path.Child("resource"), ref.Resource, resourceFields)}
	}
	return validateDivisor(ref, path.Child("divisor"))
}

func validateDivisor(ref *corev1.ResourceFieldSelector, path *field.Path) field.ErrorList {
	d := ref.Divisor.String()
	if ref.Divisor.IsZero() {
		return nil
	}
	_, kind, _ := strings.Cut(ref.Resource, ".")
	supported, listed := []string{"1m", "1"}, "1m and 1"
	if kind != "cpu" {
		supported = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
		listed = strings.Join(supported, ", ")
	}
	switch {
	case strings.HasPrefix(kind, corev1.ResourceHugePagesPrefix):
		kind = "hugepages"
	case kind == "ephemeral-storage":
		kind = "local ephemeral storage"
	}
	if slices.Contains(supported, d) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, ref.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", listed, kind))}
}
