package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings returns what the author of a valid spec should know: path is where the spec is in its object.
func Warnings(spec *corev1.PodSpec, path *field.Path) []string {
	warnings := containerWarnings(spec.InitContainers, path.Child("initContainers"))
	warnings = append(warnings, containerWarnings(spec.Containers, path.Child("containers"))...)
	if spec.TerminationGracePeriodSeconds != nil && *spec.TerminationGracePeriodSeconds < 0 {
		warnings = append(warnings, fmt.Sprintf("%s: must be >= 0; negative values are invalid and will be treated as 1", path.Child("terminationGracePeriodSeconds")))
	}
	return warnings
}

func containerWarnings(containers []corev1.Container, path *field.Path) []string {
	var warnings []string
	for i, c := range containers {
		names := sets.New[string]()
		for j, e := range c.Env {
			if names.Has(e.Name) {
				warnings = append(warnings, fmt.Sprintf("%s: hides previous definition of %q, which may be dropped when using apply", path.Index(i).Child("env").Index(j), e.Name))
			}
			names.Insert(e.Name)
		}
		first := map[string]*field.Path{}
		for j, p := range c.Ports {
			at, key := path.Index(i).Child("ports").Index(j), fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
			if before := first[key]; before != nil {
				warnings = append(warnings, fmt.Sprintf("%s: duplicate port definition with %s", at, before))
				continue
			}
			first[key] = at
		}
	}
	return warnings
}
