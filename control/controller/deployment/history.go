package deployment

import (
	"cmp"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/dump"
)

// Annotations that clients read and write too: kubectl rollout history and undo live on them.
const (
	revisionAnnotation        = "deployment.kubernetes.io/revision"
	revisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
	desiredReplicasAnnotation = "deployment.kubernetes.io/desired-replicas"
	maxReplicasAnnotation     = "deployment.kubernetes.io/max-replicas"
)

// notInherited are the annotations of a Deployment that its ReplicaSets do not get.
var notInherited = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true,
	revisionAnnotation:                 true,
	revisionHistoryAnnotation:          true,
	desiredReplicasAnnotation:          true,
	maxReplicasAnnotation:              true,
	appsv1.DeprecatedRollbackTo:        true,
}

// maxRevisionHistory bounds the length in bytes of the list of a ReplicaSet's former revisions.
const maxRevisionHistory = 2000

// sameTemplate compares two templates without the hash label that the controller adds.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	return apiequality.Semantic.DeepEqual(withoutHash(a), withoutHash(b))
}

// withoutHash is a shallow copy of the template without the hash label.
func withoutHash(template *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	plain := *template
	plain.Labels = maps.Clone(template.Labels)
	delete(plain.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return &plain
}

// templateHash names the ReplicaSet of a template. collisions is counted up when the name turned out to belong to another.
func templateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	sum := fnv.New32a()
	// A write to a hash cannot fail.
	_, _ = sum.Write([]byte(dump.ForHash(template)))
	if collisions != nil {
		_, _ = sum.Write([]byte(strconv.Itoa(int(*collisions))))
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(sum.Sum32()), 10))
}

// split finds the ReplicaSet of the Deployment's current template and returns it apart from all others, both oldest first. Of several
// with that template (a former controller's mistake) the oldest counts, always.
func split(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) (current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	sets = slices.Clone(sets)
	slices.SortFunc(sets, byAge)
	for _, rs := range sets {
		if current == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			current = rs
		} else {
			old = append(old, rs)
		}
	}
	return current, old
}

func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

// revision reads an object's revision annotation; 0 when it has none.
func revision(obj metav1.Object) int64 {
	number, err := strconv.ParseInt(obj.GetAnnotations()[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return number
}

// nextRevision is the revision that the current template has: one more than the highest of the others.
func nextRevision(old []*appsv1.ReplicaSet) int64 {
	var highest int64
	for _, rs := range old {
		highest = max(highest, revision(rs))
	}
	return highest + 1
}

// annotate gives the current ReplicaSet what it inherits from the Deployment and its revision. It changes rs and says whether it did.
func annotate(d *appsv1.Deployment, rs *appsv1.ReplicaSet, next int64, isNew bool) bool {
	before := rs.Annotations
	after := maps.Clone(before)
	if after == nil {
		after = map[string]string{}
	}
	for key, value := range d.Annotations {
		if !notInherited[key] {
			after[key] = value
		}
	}
	// A set that was current before (rollback) gets a new number and remembers the former ones.
	if last := revision(rs); last < next {
		after[revisionAnnotation] = strconv.FormatInt(next, 10)
		if last > 0 {
			after[revisionHistoryAnnotation] = appendHistory(after[revisionHistoryAnnotation], before[revisionAnnotation])
		}
	}
	if isNew {
		maps.Copy(after, sizeAnnotations(d))
	}
	rs.Annotations = after
	return !maps.Equal(before, after)
}

func appendHistory(history, last string) string {
	if history == "" {
		return last
	}
	entries := append(strings.Split(history, ","), last)
	for len(entries) > 1 && len(strings.Join(entries, ",")) > maxRevisionHistory {
		entries = entries[1:]
	}
	return strings.Join(entries, ",")
}

// sizeAnnotations record on every ReplicaSet the size for which it was scaled: a difference from the Deployment's size is how a scaling is
// told from a rollout, and the base of proportional scaling.
func sizeAnnotations(d *appsv1.Deployment) map[string]string {
	return map[string]string{
		desiredReplicasAnnotation: strconv.Itoa(int(*d.Spec.Replicas)),
		maxReplicasAnnotation:     strconv.Itoa(int(*d.Spec.Replicas + maxSurge(d))),
	}
}

// newReplicaSet is the set of the Deployment's template, of size 0.
func newReplicaSet(d *appsv1.Deployment, next int64) *appsv1.ReplicaSet {
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := d.Spec.Template.DeepCopy()
	template.Labels = withLabel(template.Labels, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, hash)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            d.Name + "-" + hash,
			Namespace:       d.Namespace,
			Labels:          maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        new(int32),
			MinReadySeconds: d.Spec.MinReadySeconds,
			Selector:        selector,
			Template:        *template,
		},
	}
	annotate(d, rs, next, true)
	return rs
}

func withLabel(labels map[string]string, hash string) map[string]string {
	extended := maps.Clone(labels)
	if extended == nil {
		extended = map[string]string{}
	}
	extended[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return extended
}

// expired returns the old sets beyond revisionHistoryLimit, lowest revision first; a set that still has pods is not among them.
func expired(d *appsv1.Deployment, old []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	if d.Spec.RevisionHistoryLimit == nil || *d.Spec.RevisionHistoryLimit == 1<<31-1 {
		return nil
	}
	kept := slices.DeleteFunc(slices.Clone(old), func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp != nil })
	surplus := len(kept) - int(*d.Spec.RevisionHistoryLimit)
	if surplus <= 0 {
		return nil
	}
	slices.SortStableFunc(kept, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revision(a), revision(b)) })
	return slices.DeleteFunc(kept[:surplus], func(rs *appsv1.ReplicaSet) bool {
		return rs.Status.Replicas != 0 || *rs.Spec.Replicas != 0 || rs.Generation > rs.Status.ObservedGeneration
	})
}
