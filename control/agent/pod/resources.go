package pod

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/container"
)

// The bounds and units of CPU time in a cgroup, as the kernel has them.
const (
	minShares    = 2
	maxShares    = 262144
	sharesPerCPU = 1024
	cpuPeriod    = 100000 // microseconds
	minQuota     = 1000   // microseconds
)

// The OOM score adjustments by class of service.
const (
	oomGuaranteed = -997
	oomBestEffort = 1000
)

// resources computes the limits of a container's cgroup.
func resources(p *corev1.Pod, c *corev1.Container) container.Resources {
	limits, requests := c.Resources.Limits, c.Resources.Requests
	request, ok := requests[corev1.ResourceCPU]
	if !ok {
		request = limits[corev1.ResourceCPU]
	}
	out := container.Resources{CPUShares: Shares(request.MilliValue()), CPUPeriod: cpuPeriod, OOMScoreAdj: oomScore(p, c)}
	if limit, ok := limits[corev1.ResourceCPU]; ok {
		out.CPUQuota = Quota(limit.MilliValue())
	}
	if limit, ok := limits[corev1.ResourceMemory]; ok {
		out.MemoryLimit = limit.Value()
	}
	return out
}

// Shares converts thousandths of a CPU to cgroup v1 shares.
func Shares(milli int64) uint64 {
	return uint64(min(max(milli*sharesPerCPU/1000, minShares), maxShares))
}

// Quota converts thousandths of a CPU to microseconds in each period of 100 ms; 0 means no limit.
func Quota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*cpuPeriod/1000, minQuota)
}

// oomScore makes the kernel kill first who asked for least.
func oomScore(p *corev1.Pod, c *corev1.Container) int {
	switch QOSClass(p) {
	case corev1.PodQOSGuaranteed:
		return oomGuaranteed
	case corev1.PodQOSBestEffort:
		return oomBestEffort
	}
	capacity := memoryCapacity()
	if capacity == 0 {
		return oomBestEffort - 1
	}
	request := c.Resources.Requests[corev1.ResourceMemory]
	score := 1000 - 1000*request.Value()/capacity
	return int(min(max(score, 1000+oomGuaranteed), oomBestEffort-1))
}
