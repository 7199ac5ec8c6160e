package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func configMapResource() *Resource {
	return &Resource{
		GroupVersion:             corev1.SchemeGroupVersion,
		Kind:                     "ConfigMap",
		Name:                     "configmaps",
		Singular:                 "configmap",
		ShortNames:               []string{"cm"},
		Namespaced:               true,
		New:                      func() runtime.Object { return &corev1.ConfigMap{} },
		NewList:                  func() runtime.Object { return &corev1.ConfigMapList{} },
		AllowUnconditionalUpdate: true,
		Default: set(func(c *corev1.ConfigMap) {
			if c.Data == nil {
				c.Data = map[string]string{}
			}
		}),
		ValidateName:   validation.NameIsDNSSubdomain,
		Validate:       one(validateConfigMap),
		ValidateUpdate: two(validateConfigMapUpdate),
		Columns:        configMapColumns(),
		Cells:          one(configMapCells),
	}
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for key, value := range c.Data {
		path := field.NewPath("data").Key(key)
		errs = append(errs, invalid(path, key, utilvalidation.IsConfigMapKey(key))...)
		if _, ok := c.BinaryData[key]; ok {
			errs = append(errs, field.Invalid(path, key, "duplicate of key present in binaryData"))
		}
		size += len(value)
	}
	for key, value := range c.BinaryData {
		errs = append(errs, invalid(field.NewPath("binaryData").Key(key), key, utilvalidation.IsConfigMapKey(key))...)
		size += len(value)
	}
	if size > maxDataSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", maxDataSize)) // the empty path is the whole object
	}
	return errs
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	if old.Immutable != nil && *old.Immutable {
		errs = append(errs, checkFrozen("immutable", c.Immutable != nil && *c.Immutable)...)
		errs = append(errs, checkFrozen("data", equality.Semantic.DeepEqual(c.Data, old.Data))...)
		errs = append(errs, checkFrozen("binaryData", equality.Semantic.DeepEqual(c.BinaryData, old.BinaryData))...)
	}
	return append(errs, validateConfigMap(c)...)
}

// checkFrozen refuses a change to a field of an immutable ConfigMap or Secret.
func checkFrozen(name string, same bool) field.ErrorList {
	if same {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath(name), "field is immutable when `immutable` is set")}
}
