package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateProjected(v *corev1.ProjectedVolumeSource, path *field.Path) field.ErrorList {
	errs := fileMode(path.Child("defaultMode"), v.DefaultMode)
	taken := sets.New[string]()
	claim := func(target, shown string) {
		if target != "" && taken.Has(target) {
			errs = append(errs, field.Invalid(path, shown, "conflicting duplicate paths"))
		}
		taken.Insert(target)
	}
	keyed := func(name string, items []corev1.KeyToPath, at *field.Path) {
		errs = append(errs, validateKeyed("name", name, nil, items, at)...)
		for _, k := range items {
			claim(k.Path, name)
		}
	}
	for i, s := range v.Sources {
		at, sources := path.Child("sources").Index(i), 0
		if s.Secret != nil {
			sources++
			keyed(s.Secret.Name, s.Secret.Items, at.Child("secret"))
		}
		if s.ConfigMap != nil {
			sources++
			keyed(s.ConfigMap.Name, s.ConfigMap.Items, at.Child("configMap"))
		}
		if s.DownwardAPI != nil {
			sources++
			errs = append(errs, validateFiles(s.DownwardAPI.Items, at.Child("downwardAPI"))...)
			for _, f := range s.DownwardAPI.Items {
				claim(f.Path, f.Path)
			}
		}
		if s.ServiceAccountToken != nil {
			sources++
			errs = append(errs, validateToken(s.ServiceAccountToken, path, at.Child("serviceAccountToken"))...)
		}
		if s.ClusterTrustBundle != nil {
			sources++
			errs = append(errs, required(at.Child("clusterTrustBundle", "path"), s.ClusterTrustBundle.Path)...)
			claim(s.ClusterTrustBundle.Path, s.ClusterTrustBundle.Path)
		}
		if sources > 1 {
			errs = append(errs, field.Forbidden(at, "may not specify more than 1 volume type per source"))
		}
	}
	return errs
}

// validateToken reports a wrong path at the volume, as upstream does, and the rest at the source.
func validateToken(t *corev1.ServiceAccountTokenProjection, volume, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("expirationSeconds")
	switch seconds := t.ExpirationSeconds; {
	case seconds == nil:
		errs = append(errs, field.Required(at, ""))
	case *seconds < 600:
		errs = append(errs, field.Invalid(at, *seconds, "may not specify a duration less than 10 minutes"))
	case *seconds > 1<<32:
		errs = append(errs, field.Invalid(at, *seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if t.Path == "" {
		return append(errs, field.Required(volume.Child("path"), ""))
	}
	return append(errs, nonReserved(volume.Child("path"), t.Path)...)
}
