package api

import (
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxDataSize is the most that a ConfigMap or a Secret holds, in bytes, over all keys.
const maxDataSize = 1 << 20

// invalid makes an error of every message.
func invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

func checkLabel(path *field.Path, value string) field.ErrorList {
	return invalid(path, value, utilvalidation.IsDNS1123Label(value))
}

func checkQualifiedName(path *field.Path, value string) field.ErrorList {
	return invalid(path, value, utilvalidation.IsQualifiedName(value))
}

func checkNonNegative(path *field.Path, value int64) field.ErrorList {
	return validation.ValidateNonnegativeField(value, path)
}

func checkImmutable(path *field.Path, value, old any) field.ErrorList {
	return validation.ValidateImmutableField(value, old, path)
}

// checkPort checks a port that may be a name.
func checkPort(path *field.Path, port intstr.IntOrString) field.ErrorList {
	if port.Type == intstr.String {
		return invalid(path, port.StrVal, utilvalidation.IsValidPortName(port.StrVal))
	}
	return invalid(path, port.IntValue(), utilvalidation.IsValidPortNum(port.IntValue()))
}

// checkIP checks an address of a field that once took sloppy ones: those in known are let through.
func checkIP(path *field.Path, value string, known []string) field.ErrorList {
	return utilvalidation.IsValidIPForLegacyField(path, value, true, known)
}

// checkCIDR is checkIP for a range.
func checkCIDR(path *field.Path, value string, known []string) field.ErrorList {
	return utilvalidation.IsValidCIDRForLegacyField(path, value, true, known)
}

// checkSet checks the words of a closed set.
func checkSet[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	for _, a := range allowed {
		if value == a {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(path, value, allowed)}
}

// checkNotAbove checks a count of a status that is part of another.
func checkNotAbove(path *field.Path, part, whole int32, message string) field.ErrorList {
	if part <= whole {
		return nil
	}
	return field.ErrorList{field.Invalid(path, part, message)}
}
