package podspec

import (
	"slices"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	wrongFileMode = "must be a number between 0 and 0777 (octal), both inclusive"
	oneSourceOnly = "may not have more than one field specified at a time"
)

// invalid makes an error of each message.
func invalid(path *field.Path, value any, msgs []string) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range msgs {
		errs = append(errs, field.Invalid(path, value, msg))
	}
	return errs
}

func required(path *field.Path, value string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

// oneOf requires a value and checks that it is supported.
func oneOf[T ~string](path *field.Path, value T, supported ...T) field.ErrorList {

	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return supportedOnly(path, value, supported...)
}

func supportedOnly[T ~string](path *field.Path, value T, supported ...T) field.ErrorList {
	if slices.Contains(supported, value) {
		return nil
	}
	slices.Sort(supported)
	return field.ErrorList{field.NotSupported(path, value, supported)}
}

func label(path *field.Path, value string) field.ErrorList {
	return invalid(path, value, validation.IsDNS1123Label(value))
}

func subdomain(path *field.Path, value string) field.ErrorList {
	return invalid(path, value, validation.IsDNS1123Subdomain(value))
}

func requiredSubdomain(path *field.Path, value string) field.ErrorList {
	if value == "" {
		return required(path, value)
	}
	return subdomain(path, value)
}

func qualifiedName(path *field.Path, value string) field.ErrorList {
	return invalid(path, value, validation.IsQualifiedName(value))
}

func nonnegative[T ~int32 | ~int64](path *field.Path, value T) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(int64(value), path)
}

func fileMode(path *field.Path, mode *int32) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		return field.ErrorList{field.Invalid(path, *mode, wrongFileMode)}
	}
	return nil
}

// descending checks that a path stays below where it starts.
func descending(path *field.Path, target string) field.ErrorList {
	var errs field.ErrorList
	if strings.HasPrefix(target, "/") {
		errs = append(errs, field.Invalid(path, target, "must be a relative path"))
	}
	return append(errs, noBacksteps(path, target)...)
}

func noBacksteps(path *field.Path, target string) field.ErrorList {
	if slices.Contains(strings.Split(target, "/"), "..") {
		return field.ErrorList{field.Invalid(path, target, "must not contain '..'")}
	}
	return nil
}

// nonReserved checks the path of a file inside a volume whose own names, as "..data", start with two dots.
func nonReserved(path *field.Path, target string) field.ErrorList {
	errs := descending(path, target)
	if strings.HasPrefix(target, "..") && !strings.HasPrefix(target, "../") {
		errs = append(errs, field.Invalid(path, target, "must not start with '..'"))
	}
	return errs
}
