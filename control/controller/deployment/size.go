package deployment

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// resize is one ReplicaSet that gets another size.
type resize struct {
	rs *appsv1.ReplicaSet
	to int32
}

func rolling(d *appsv1.Deployment) bool {
	return d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType
}

// limits resolves maxSurge (rounded up) and maxUnavailable (rounded down). Both 0 would stop every rollout, so then one may be unavailable.
func limits(d *appsv1.Deployment) (surge, unavailable int32) {
	if !rolling(d) || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	zero := intstr.FromInt32(0)
	total := int(*d.Spec.Replicas)
	// Validation has refused what cannot be parsed; a value that slipped through counts as 0.
	up, err := intstr.GetScaledValueFromIntOrPercent(cmp.Or(d.Spec.Strategy.RollingUpdate.MaxSurge, &zero), total, true)
	if err != nil {
		up = 0
	}
	down, err := intstr.GetScaledValueFromIntOrPercent(cmp.Or(d.Spec.Strategy.RollingUpdate.MaxUnavailable, &zero), total, false)
	if err != nil {
		down = 0
	}
	if up == 0 && down == 0 {
		down = 1
	}
	return int32(up), int32(down)
}

func maxSurge(d *appsv1.Deployment) int32 {
	surge, _ := limits(d)
	return surge
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	if !rolling(d) || *d.Spec.Replicas == 0 {
		return 0
	}
	_, unavailable := limits(d)
	return min(unavailable, *d.Spec.Replicas)
}

func wantedReplicas(sets ...*appsv1.ReplicaSet) int32 {
	var total int32
	for _, rs := range sets {
		if rs != nil {
			total += *rs.Spec.Replicas
		}
	}
	return total
}

func active(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var found []*appsv1.ReplicaSet
	for _, rs := range sets {
		if rs != nil && *rs.Spec.Replicas > 0 {
			found = append(found, rs)
		}
	}
	return found
}

// currentSize is the size that the current set may have now: the whole for Recreate, else as much as maxSurge leaves room for.
func currentSize(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) int32 {
	wanted, size := *d.Spec.Replicas, *current.Spec.Replicas
	if !rolling(d) || size >= wanted {
		return wanted
	}
	room := wanted + maxSurge(d) - wantedReplicas(old...) - size
	return size + min(max(0, room), wanted-size)
}

// shrink says how the old sets give way in a rolling update. Pods that are not available go first, since nobody misses them; then as
// many available ones as keeps the whole above its minimum. Both stop short of counting on pods of the new set that are not available yet.
func shrink(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) []resize {
	old = active(old)
	minAvailable := *d.Spec.Replicas - maxUnavailable(d)
	newUnavailable := *current.Spec.Replicas - current.Status.AvailableReplicas
	budget := wantedReplicas(old...) + *current.Spec.Replicas - minAvailable - newUnavailable
	if len(old) == 0 || budget <= 0 {
		return nil
	}
	slices.SortFunc(old, byAge)
	sizes := make([]int32, len(old))
	availableTotal := current.Status.AvailableReplicas
	for i, rs := range old {
		unhealthy := min(budget, max(0, *rs.Spec.Replicas-rs.Status.AvailableReplicas))
		sizes[i] = *rs.Spec.Replicas - unhealthy
		budget -= unhealthy
		availableTotal += rs.Status.AvailableReplicas
	}
	spare := availableTotal - minAvailable
	for i := range old {
		step := min(max(0, spare), sizes[i])
		sizes[i] -= step
		spare -= step
	}
	var changes []resize
	for i, rs := range old {
		if sizes[i] != *rs.Spec.Replicas {
			changes = append(changes, resize{rs, sizes[i]})
		}
	}
	return changes
}

// scalingWanted says whether the Deployment's size was changed since its sets were sized.
func scalingWanted(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) bool {
	for _, rs := range active(append(slices.Clone(old), current)) {
		desired, err := strconv.ParseInt(rs.Annotations[desiredReplicasAnnotation], 10, 32)
		if err == nil && int32(desired) != *d.Spec.Replicas {
			return true
		}
	}
	return false
}

// scale distributes a changed size. One active set takes it all. In the middle of a rollout every active set takes its share, so that
// scaling neither speeds the rollout up nor risks more than it did.
func scale(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) []resize {
	wanted := *d.Spec.Replicas
	running := active(append(slices.Clone(old), current))
	switch {
	case len(running) == 0 && current != nil:
		return []resize{{current, wanted}}
	case len(running) == 0 && len(old) > 0:
		return []resize{{slices.MaxFunc(old, byAge), wanted}}
	case len(running) == 0:
		return nil
	case len(running) == 1:
		return []resize{{running[0], wanted}}
	case saturated(d, current), !rolling(d):
		var changes []resize
		for _, rs := range active(old) {
			changes = append(changes, resize{rs, 0})
		}
		return changes
	}
	return proportional(d, running)
}

// saturated says whether the current set has all replicas and all are available.
func saturated(d *appsv1.Deployment, current *appsv1.ReplicaSet) bool {
	if current == nil {
		return false
	}
	desired, err := strconv.ParseInt(current.Annotations[desiredReplicasAnnotation], 10, 32)
	wanted := *d.Spec.Replicas
	return err == nil && int32(desired) == wanted && *current.Spec.Replicas == wanted && current.Status.AvailableReplicas == wanted
}

func proportional(d *appsv1.Deployment, running []*appsv1.ReplicaSet) []resize {
	var allowed int32
	if *d.Spec.Replicas > 0 {
		allowed = *d.Spec.Replicas + maxSurge(d)
	}
	add := allowed - wantedReplicas(running...)
	// The largest set takes the rounding remainder; of equal sets the newest grows first and the oldest shrinks first.
	slices.SortFunc(running, func(a, b *appsv1.ReplicaSet) int {
		age := byAge(a, b)
		if add > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), age)
	})
	changes := make([]resize, len(running))
	var added int32
	for i, rs := range running {
		part := share(d, rs, add, added)
		added += part
		changes[i] = resize{rs, *rs.Spec.Replicas + part}
	}
	changes[0].to = max(0, changes[0].to+add-added)
	return changes
}

// share is what one set gets of add replicas (negative when shrinking) of which added were given out before.
func share(d *appsv1.Deployment, rs *appsv1.ReplicaSet, add, added int32) int32 {
	if add == added {
		return 0
	}
	size := *rs.Spec.Replicas
	fraction := -size
	if *d.Spec.Replicas != 0 {
		base, err := strconv.ParseInt(rs.Annotations[maxReplicasAnnotation], 10, 32)
		if err != nil || base == 0 {
			base = int64(max(1, d.Status.Replicas))
		}
		total := float64(*d.Spec.Replicas + maxSurge(d))
		fraction = int32(math.Round(float64(size)*total/float64(base))) - size
	}
	if add > 0 {
		return max(0, min(fraction, add-added))
	}
	return min(0, max(fraction, add-added))
}
