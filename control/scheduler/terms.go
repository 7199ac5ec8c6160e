package scheduler

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// selection is a set of pods: by labels, in some namespaces. Equal keys mean equal selections, so pods of one template share the counting.
type selection struct {
	key        string
	selector   labels.Selector
	namespaces []string        // sorted
	wide       labels.Selector // namespaces by their labels, nil for none
}

// term is a selection within the domains of a topology key.
type term struct {
	selection
	topologyKey string
}

// wish is a term that is preferred with a weight, which is negative for anti-affinity.
type wish struct {
	term
	weight int64
}

// spread is a topology spread constraint.
type spread struct {
	term
	maxSkew    int
	minDomains int
	// affinityHonored and taintsHonored say whether nodes that the pod could not be on anyway are left out of the count.
	affinityHonored, taintsHonored bool
	// self is 1 when the pod counts itself.
	self int
}

// podTerms are all demands of a pod on the company it keeps.
type podTerms struct {
	require, refuse []term
	wishes          []wish
	hard, soft      []spread
}

func (t *podTerms) empty() bool {
	return len(t.require)+len(t.refuse)+len(t.wishes)+len(t.hard)+len(t.soft) == 0
}

func newPodTerms(pod *corev1.Pod) podTerms {
	var terms podTerms
	if affinity := pod.Spec.Affinity; affinity != nil && affinity.PodAffinity != nil {
		terms.require = newTerms(pod, affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		terms.wishes = newWishes(terms.wishes, pod, affinity.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if affinity := pod.Spec.Affinity; affinity != nil && affinity.PodAntiAffinity != nil {
		terms.refuse = newTerms(pod, affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		terms.wishes = newWishes(terms.wishes, pod, affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		constraint := &pod.Spec.TopologySpreadConstraints[i]
		if constraint.WhenUnsatisfiable == corev1.ScheduleAnyway {
			terms.soft = append(terms.soft, newSpread(pod, constraint))
		} else {
			terms.hard = append(terms.hard, newSpread(pod, constraint))
		}
	}
	return terms
}

func newTerms(pod *corev1.Pod, source []corev1.PodAffinityTerm) []term {
	var terms []term
	for i := range source {
		terms = append(terms, newTerm(pod, &source[i]))
	}
	return terms
}

func newWishes(wishes []wish, pod *corev1.Pod, source []corev1.WeightedPodAffinityTerm, sign int64) []wish {
	for i := range source {
		wishes = append(wishes, wish{term: newTerm(pod, &source[i].PodAffinityTerm), weight: sign * int64(source[i].Weight)})
	}
	return wishes
}

func newTerm(pod *corev1.Pod, source *corev1.PodAffinityTerm) term {
	namespaces := slices.Sorted(slices.Values(source.Namespaces))
	var wide labels.Selector
	if source.NamespaceSelector != nil {
		wide = parse(source.NamespaceSelector)
	} else if len(namespaces) == 0 {
		namespaces = []string{pod.Namespace}
	}
	return term{selection: newSelection(parse(source.LabelSelector), namespaces, wide), topologyKey: source.TopologyKey}
}

func newSpread(pod *corev1.Pod, source *corev1.TopologySpreadConstraint) spread {
	selector := parse(source.LabelSelector)
	for _, key := range source.MatchLabelKeys {
		if value, ok := pod.Labels[key]; ok {
			if same, err := labels.NewRequirement(key, "=", []string{value}); err == nil {
				selector = selector.Add(*same)
			}
		}
	}
	honor, ignore := corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore
	one := int32(1)
	s := spread{
		term:            term{selection: newSelection(selector, []string{pod.Namespace}, nil), topologyKey: source.TopologyKey},
		maxSkew:         int(source.MaxSkew),
		minDomains:      int(*cmp.Or(source.MinDomains, &one)),
		affinityHonored: *cmp.Or(source.NodeAffinityPolicy, &honor) == honor,
		taintsHonored:   *cmp.Or(source.NodeTaintsPolicy, &ignore) == honor,
	}
	if selector.Matches(labels.Set(pod.Labels)) {
		s.self = 1
	}
	return s
}

// parse turns what does not parse into a selector of nothing; validation has refused it before.
func parse(source *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(source)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

func newSelection(selector labels.Selector, namespaces []string, wide labels.Selector) selection {
	s := selection{selector: selector, namespaces: namespaces, wide: wide}
	// An empty selector and one of nothing print the same.
	_, selectable := selector.Requirements()
	mark := "|"
	if !selectable {
		mark = "|!"
	}
	s.key = selector.String() + mark + strings.Join(namespaces, ",")
	if wide != nil {
		s.key += "|" + wide.String()
	}
	return s
}

func (s *selection) matches(pod *corev1.Pod, namespaceLabels func(namespace string) map[string]string) bool {
	_, named := slices.BinarySearch(s.namespaces, pod.Namespace)
	if !named && (s.wide == nil || !s.wide.Empty() && !s.wide.Matches(labels.Set(namespaceLabels(pod.Namespace)))) {
		return false
	}
	return s.selector.Matches(labels.Set(pod.Labels))
}
