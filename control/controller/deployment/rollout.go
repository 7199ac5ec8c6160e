package deployment

import (
	"context"
	"errors"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rollout is one step of one Deployment: what it has, and what the step found out.
type rollout struct {
	*Controller
	// d is a copy; its status collects conditions during the step.
	d       *appsv1.Deployment
	current *appsv1.ReplicaSet // of d's template, nil if there is none
	old     []*appsv1.ReplicaSet
	now     metav1.Time
	// revision is what d's annotation has to say after the step; 0 leaves it.
	revision int64
}

// step does what can be done now and returns the status to write, nil when there is none. What remains to be done waits for an event.
func (r *rollout) step(ctx context.Context) (*appsv1.DeploymentStatus, error) {
	if r.d.DeletionTimestamp != nil {
		return r.counted(), nil
	}
	pauseConditions(r.d, r.now)
	if r.d.Spec.Paused || scalingWanted(r.d, r.current, r.old) {
		return r.scaled(ctx)
	}
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return r.recreate(ctx)
	}
	return r.roll(ctx)
}

// counted is the status of a Deployment that does not roll out: no estimate of progress.
func (r *rollout) counted() *appsv1.DeploymentStatus {
	status := counts(r.d, r.current, r.old, r.now)
	return &status
}

func (r *rollout) progressed() *appsv1.DeploymentStatus {
	status := counts(r.d, r.current, r.old, r.now)
	progress(r.d, &status, r.current, r.old, r.now)
	return &status
}

// scaled changes sizes without rolling out. A paused Deployment still scales, but makes no new set.
func (r *rollout) scaled(ctx context.Context) (*appsv1.DeploymentStatus, error) {
	if err := r.syncCurrent(ctx); err != nil {
		return nil, err
	}
	if _, err := r.resize(ctx, scale(r.d, r.current, r.old)); err != nil {
		return nil, err
	}
	if r.d.Spec.Paused {
		if err := r.prune(ctx); err != nil {
			return nil, err
		}
	}
	return r.counted(), nil
}

func (r *rollout) roll(ctx context.Context) (*appsv1.DeploymentStatus, error) {
	if status, err := r.ensureCurrent(ctx); err != nil {
		return status, err
	}
	grown, err := r.resize(ctx, []resize{{r.current, currentSize(r.d, r.current, r.old)}})
	if err != nil {
		return nil, err
	}
	if grown {
		return r.progressed(), nil
	}
	shrunk, err := r.resize(ctx, shrink(r.d, r.current, r.old))
	if err != nil {
		return nil, err
	}
	return r.finish(ctx, shrunk)
}

func (r *rollout) recreate(ctx context.Context) (*appsv1.DeploymentStatus, error) {
	if r.current != nil {
		if err := r.syncCurrent(ctx); err != nil {
			return nil, err
		}
	}
	var down []resize
	for _, rs := range active(r.old) {
		down = append(down, resize{rs, 0})
	}
	scaled, err := r.resize(ctx, down)
	if err != nil {
		return nil, err
	}
	running, err := r.oldPodsRunning(r.old)
	if err != nil {
		return nil, err
	}
	if scaled || running {
		return r.progressed(), nil
	}
	if status, err := r.ensureCurrent(ctx); err != nil {
		return status, err
	}
	if _, err := r.resize(ctx, []resize{{r.current, *r.d.Spec.Replicas}}); err != nil {
		return nil, err
	}
	return r.finish(ctx, false)
}

// finish ends a step; when the rollout is over, old sets beyond the history go.
func (r *rollout) finish(ctx context.Context, changed bool) (*appsv1.DeploymentStatus, error) {
	status := r.progressed()
	if !changed && complete(r.d, status) {
		return status, r.prune(ctx)
	}
	return status, nil
}

// syncCurrent brings the current set's annotations and minReadySeconds up to date, and notes its revision.
func (r *rollout) syncCurrent(ctx context.Context) error {
	if r.current == nil {
		return nil
	}
	next := nextRevision(r.old)
	rs := r.current.DeepCopy()
	changed := annotate(r.d, rs, next, false)
	if changed || rs.Spec.MinReadySeconds != r.d.Spec.MinReadySeconds {
		rs.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
		updated, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, rs, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		r.current = updated
	}
	r.revision = revision(r.current)
	if hasDeadline(r.d) && condition(&r.d.Status, appsv1.DeploymentProgressing) == nil {
		setCondition(&r.d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonFound,
			fmt.Sprintf("Found new replica set %q", r.current.Name), r.now))
	}
	return nil
}

// ensureCurrent makes the set of the current template if there is none. With an error it may return a status to write all the same.
func (r *rollout) ensureCurrent(ctx context.Context) (*appsv1.DeploymentStatus, error) {
	if r.current != nil {
		return nil, r.syncCurrent(ctx)
	}
	next := nextRevision(r.old)
	rs := newReplicaSet(r.d, next)
	*rs.Spec.Replicas = currentSize(r.d, rs, r.old)
	created, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Create(ctx, rs, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return r.adoptNamesake(ctx, rs.Name, err)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, err
	case err != nil:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
		r.recorder.Event(r.d, corev1.EventTypeWarning, reasonCreateFailed, message)
		status := r.counted()
		if hasDeadline(r.d) {
			setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonCreateFailed, message, r.now))
		}
		return status, err
	}
	if size := *created.Spec.Replicas; size > 0 {
		r.recorder.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", created.Name, size)
	}
	r.current, r.revision = created, next
	if hasDeadline(r.d) {
		setCondition(&r.d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonCreated,
			fmt.Sprintf("Created new replica set %q", created.Name), r.now))
	}
	return nil, nil
}

// adoptNamesake handles a taken name. Our own set that the cache has not shown yet is the current one; a foreign one means that two
// templates have the same hash, so the next try counts one collision more.
func (r *rollout) adoptNamesake(ctx context.Context, name string, taken error) (*appsv1.DeploymentStatus, error) {
	rs, err := r.client.AppsV1().ReplicaSets(r.d.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	ref := metav1.GetControllerOf(rs)
	if ref != nil && ref.UID == r.d.UID && sameTemplate(&r.d.Spec.Template, &rs.Spec.Template) {
		r.current = rs
		return nil, r.syncCurrent(ctx)
	}
	status := r.counted()
	collisions := int32(1)
	if r.d.Status.CollisionCount != nil {
		collisions += *r.d.Status.CollisionCount
	}
	status.CollisionCount = &collisions
	return status, taken
}

// resize sends the changes and says whether any size changed. Sets that keep their size may still get new size annotations. The sets in
// r are replaced by what the API server answered.
func (r *rollout) resize(ctx context.Context, changes []resize) (changed bool, err error) {
	for _, change := range changes {
		from := *change.rs.Spec.Replicas
		marks := sizeAnnotations(r.d)
		if from == change.to && annotated(change.rs, marks) {
			continue
		}
		rs := change.rs.DeepCopy()
		*rs.Spec.Replicas = change.to
		if rs.Annotations == nil {
			rs.Annotations = map[string]string{}
		}
		maps.Copy(rs.Annotations, marks)
		updated, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, rs, metav1.UpdateOptions{})
		if err != nil {
			return changed, err
		}
		r.replace(updated)
		if from == change.to {
			continue
		}
		changed = true
		direction := "up"
		if change.to < from {
			direction = "down"
		}
		r.recorder.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, rs.Name, from, change.to)
	}
	return changed, nil
}

func annotated(rs *appsv1.ReplicaSet, marks map[string]string) bool {
	for key, value := range marks {
		if rs.Annotations[key] != value {
			return false
		}
	}
	return true
}

func (r *rollout) replace(updated *appsv1.ReplicaSet) {
	if r.current != nil && r.current.UID == updated.UID {
		r.current = updated
		return
	}
	for i, rs := range r.old {
		if rs.UID == updated.UID {
			r.old[i] = updated
		}
	}
}

func (r *rollout) prune(ctx context.Context) error {
	var failures []error
	for _, rs := range expired(r.d, r.old) {
		err := r.client.AppsV1().ReplicaSets(rs.Namespace).Delete(ctx, rs.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(rs.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			failures = append(failures, fmt.Errorf("delete old ReplicaSet %s/%s: %w", rs.Namespace, rs.Name, err))
		}
	}
	return errors.Join(failures...)
}
