package replicaset

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/controller/podstate"
)

// candidate is a pod that may have to go, with what decides its place in the row.
type candidate struct {
	pod *corev1.Pod
	// peers counts the active pods of the same owner family on the pod's node.
	peers int
}

// rank sorts pods so that the one to delete first comes first. Each rule breaks the ties of those before it: a pod that serves
// nobody goes before one that does, then what the user asked for, then what spreads the rest, then what has run the shortest.
func rank(candidates []candidate, now time.Time) {
	slices.SortStableFunc(candidates, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(flag(a.pod.Spec.NodeName != ""), flag(b.pod.Spec.NodeName != "")),
			cmp.Compare(phaseRank(a.pod.Status.Phase), phaseRank(b.pod.Status.Phase)),
			cmp.Compare(flag(podstate.Ready(a.pod)), flag(podstate.Ready(b.pod))),
			cmp.Compare(deletionCost(a.pod), deletionCost(b.pod)),
			cmp.Compare(b.peers, a.peers),
			compareReadyTime(a.pod, b.pod, now),
			cmp.Compare(restarts(b.pod, true), restarts(a.pod, true)),
			cmp.Compare(restarts(b.pod, false), restarts(a.pod, false)),
			compareAge(a.pod.CreationTimestamp.Time, b.pod.CreationTimestamp.Time, now),
			cmp.Compare(a.pod.UID, b.pod.UID),
		)
	})
}

func flag(set bool) int {
	if set {
		return 1
	}
	return 0
}

func phaseRank(phase corev1.PodPhase) int {
	switch phase {
	case corev1.PodPending:
		return 0
	case corev1.PodRunning:
		return 2
	}
	return 1
}

// deletionCost reads the annotation with which a user says how dear a pod is; what is not a number counts as 0, as an absent one.
func deletionCost(pod *corev1.Pod) int32 {
	cost, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(cost)
}

func compareReadyTime(a, b *corev1.Pod, now time.Time) int {
	if !podstate.Ready(a) || !podstate.Ready(b) {
		return 0
	}
	return compareAge(podstate.Condition(a, corev1.PodReady).LastTransitionTime.Time,
		podstate.Condition(b, corev1.PodReady).LastTransitionTime.Time, now)
}

// compareAge puts the younger first, and ages of the same power of two on a par: among pods of about the same age the choice is
// left to chance (the UID), so that a scale-down does not always empty the node of the last rollout.
func compareAge(a, b time.Time, now time.Time) int {
	return cmp.Compare(ageBucket(a, now), ageBucket(b, now))
}

func ageBucket(t, now time.Time) int {
	if t.IsZero() {
		return -1
	}
	bucket := 0
	for seconds := int64(now.Sub(t) / time.Second); seconds > 0; seconds >>= 1 {
		bucket++
	}
	return bucket
}

// restarts is the highest restart count of the pod's ordinary containers, or of its sidecars.
func restarts(pod *corev1.Pod, ordinary bool) int32 {
	var most int32
	if ordinary {
		for i := range pod.Status.ContainerStatuses {
			most = max(most, pod.Status.ContainerStatuses[i].RestartCount)
		}
		return most
	}
	for i := range pod.Spec.InitContainers {
		policy := pod.Spec.InitContainers[i].RestartPolicy
		if policy == nil || *policy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		for j := range pod.Status.InitContainerStatuses {
			if pod.Status.InitContainerStatuses[j].Name == pod.Spec.InitContainers[i].Name {
				most = max(most, pod.Status.InitContainerStatuses[j].RestartCount)
			}
		}
	}
	return most
}
