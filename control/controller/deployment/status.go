package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the conditions, as clients know them.
const (
	reasonNewAvailable    = "NewReplicaSetAvailable"
	reasonUpdated         = "ReplicaSetUpdated"
	reasonCreated         = "NewReplicaSetCreated"
	reasonFound           = "FoundNewReplicaSet"
	reasonCreateFailed    = "ReplicaSetCreateError"
	reasonDeadline        = "ProgressDeadlineExceeded"
	reasonPaused          = "DeploymentPaused"
	reasonResumed         = "DeploymentResumed"
	reasonMinAvailable    = "MinimumReplicasAvailable"
	reasonMinNotAvailable = "MinimumReplicasUnavailable"
)

func condition(status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}

func dropCondition(status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) {
	status.Conditions = slices.DeleteFunc(status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == kind })
}

func newCondition(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string, now metav1.Time) appsv1.DeploymentCondition {
	return appsv1.DeploymentCondition{Type: kind, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
}

// setCondition replaces the condition of that type. The same status and reason again is no news: times and message stay.
func setCondition(status *appsv1.DeploymentStatus, next appsv1.DeploymentCondition) {
	if current := condition(status, next.Type); current != nil {
		if current.Status == next.Status && current.Reason == next.Reason {
			return
		}
		if current.Status == next.Status {
			next.LastTransitionTime = current.LastTransitionTime
		}
	}
	dropCondition(status, next.Type)
	status.Conditions = append(status.Conditions, next)
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// pauseConditions notes a pause or its end in d's status: time spent paused is no lack of progress. A deadline that was exceeded
// before stays visible.
func pauseConditions(d *appsv1.Deployment, now metav1.Time) {
	current := condition(&d.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(d) || current != nil && current.Reason == reasonDeadline {
		return
	}
	paused := current != nil && current.Reason == reasonPaused
	switch {
	case d.Spec.Paused && !paused:
		setCondition(&d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused", now))
	case !d.Spec.Paused && paused:
		setCondition(&d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed", now))
	}
}

// counts computes the status but for the conditions of progress and failure. Its conditions start from d's.
func counts(d *appsv1.Deployment, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet, now metav1.Time) appsv1.DeploymentStatus {
	next := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation,
		CollisionCount:     d.Status.CollisionCount,
		Conditions:         slices.Clone(d.Status.Conditions),
	}
	if current != nil {
		next.UpdatedReplicas = current.Status.Replicas
	}
	var terminating int32
	for _, rs := range append(slices.Clone(old), current) {
		if rs == nil {
			continue
		}
		next.Replicas += rs.Status.Replicas
		next.ReadyReplicas += rs.Status.ReadyReplicas
		next.AvailableReplicas += rs.Status.AvailableReplicas
		if rs.Status.TerminatingReplicas != nil {
			terminating += *rs.Status.TerminatingReplicas
		}
	}
	next.TerminatingReplicas = &terminating
	next.UnavailableReplicas = max(0, wantedReplicas(append(slices.Clone(old), current)...)-next.AvailableReplicas)
	if next.AvailableReplicas >= *d.Spec.Replicas-maxUnavailable(d) {
		setCondition(&next, newCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonMinAvailable, "Deployment has minimum availability.", now))
	} else {
		setCondition(&next, newCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonMinNotAvailable, "Deployment does not have minimum availability.", now))
	}
	return next
}

func complete(d *appsv1.Deployment, status *appsv1.DeploymentStatus) bool {
	wanted := *d.Spec.Replicas
	return status.UpdatedReplicas == wanted && status.Replicas == wanted && status.AvailableReplicas == wanted && status.ObservedGeneration >= d.Generation
}

func progressing(before, after *appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		after.ReadyReplicas > before.ReadyReplicas ||
		after.AvailableReplicas > before.AvailableReplicas
}

func timedOut(d *appsv1.Deployment, status *appsv1.DeploymentStatus, now time.Time) bool {
	current := condition(status, appsv1.DeploymentProgressing)
	if current == nil || current.Reason == reasonNewAvailable {
		return false
	}
	return current.Reason == reasonDeadline || current.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds)*time.Second).Before(now)
}

// progress adds the conditions Progressing and ReplicaFailure of a rollout to the counted status.
func progress(d *appsv1.Deployment, next *appsv1.DeploymentStatus, current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet, now metav1.Time) {
	if !hasDeadline(d) {
		dropCondition(next, appsv1.DeploymentProgressing)
	}
	known := condition(next, appsv1.DeploymentProgressing)
	settled := next.Replicas == next.UpdatedReplicas && known != nil && known.Reason == reasonNewAvailable
	if hasDeadline(d) && !settled {
		subject := fmt.Sprintf("Deployment %q", d.Name)
		if current != nil {
			subject = fmt.Sprintf("ReplicaSet %q", current.Name)
		}
		switch {
		case complete(d, next):
			setCondition(next, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonNewAvailable, subject+" has successfully progressed.", now))
		case progressing(&d.Status, next):
			made := newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonUpdated, subject+" is progressing.", now)
			if known != nil && known.Status == corev1.ConditionTrue {
				made.LastTransitionTime = known.LastTransitionTime
			}
			// The same reason again moves the update time on: the deadline counts from the last progress.
			dropCondition(next, appsv1.DeploymentProgressing)
			setCondition(next, made)
		case timedOut(d, next, now.Time):
			setCondition(next, newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonDeadline, subject+" has timed out progressing.", now))
		}
	}
	if failure := replicaFailure(current, old); failure != nil {
		setCondition(next, *failure)
	} else {
		dropCondition(next, appsv1.DeploymentReplicaFailure)
	}
}

// replicaFailure is the failure of a set as the Deployment's; the current set's goes first.
func replicaFailure(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) *appsv1.DeploymentCondition {
	for _, rs := range append([]*appsv1.ReplicaSet{current}, old...) {
		if rs == nil {
			continue
		}
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				failure := newCondition(appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message, c.LastTransitionTime)
				return &failure
			}
		}
	}
	return nil
}

// untilDeadline is the time after which lack of progress has to be looked for; 0 when there is nothing to look for.
func untilDeadline(d *appsv1.Deployment, status *appsv1.DeploymentStatus, now time.Time) time.Duration {
	current := condition(status, appsv1.DeploymentProgressing)
	if !hasDeadline(d) || d.Spec.Paused || current == nil || current.Reason == reasonDeadline || current.Reason == reasonNewAvailable || complete(d, status) {
		return 0
	}
	// One second more, since the stored times have no fractions.
	left := current.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds)*time.Second + time.Second).Sub(now)
	return max(left, time.Second)
}
