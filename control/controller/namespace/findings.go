package namespace

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// findings are what one pass over a namespace met.
type findings struct {
	discovery  error
	content    []error
	objects    map[string]int // left, by resource.group
	finalizers map[string]int // on what is left
}

func (f *findings) remains() bool { return len(f.objects) > 0 }

func (f *findings) err() error { return errors.Join(append(slices.Clone(f.content), f.discovery)...) }

// conditions are upstream's five, updated: a condition that says the same keeps its time.
func (f *findings) conditions(current []corev1.NamespaceCondition, now metav1.Time) []corev1.NamespaceCondition {
	next := slices.Clone(current)
	set := func(kind corev1.NamespaceConditionType, bad bool, badReason, badMessage, goodReason, goodMessage string) {
		condition := corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, Reason: goodReason, Message: goodMessage, LastTransitionTime: now}
		if bad {
			condition.Status, condition.Reason, condition.Message = corev1.ConditionTrue, badReason, badMessage
		}
		at := slices.IndexFunc(next, func(c corev1.NamespaceCondition) bool { return c.Type == kind })
		switch {
		case at < 0:
			next = append(next, condition)
		case next[at].Status != condition.Status || next[at].Reason != condition.Reason || next[at].Message != condition.Message:
			next[at] = condition
		}
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, f.discovery != nil, "DiscoveryFailed", fmt.Sprintf("Discovery failed for some groups: %v", f.discovery),
		"ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, false, "", "", "ParsedGroupVersions", "All legacy kube types successfully parsed")
	set(corev1.NamespaceDeletionContentFailure, len(f.content) > 0, "ContentDeletionFailed",
		fmt.Sprintf("Failed to delete all resource types, %d remaining: %v", len(f.content), errors.Join(f.content...)),
		"ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, f.remains(), "SomeResourcesRemain",
		"Some resources are remaining: "+counted(f.objects, "%s has %d resource instances"), "ContentRemoved", "All content successfully removed")
	set(corev1.NamespaceFinalizersRemaining, len(f.finalizers) > 0, "SomeFinalizersRemain",
		"Some content in the namespace has finalizers remaining: "+counted(f.finalizers, "%s in %d resource instances"),
		"ContentHasNoFinalizers", "All content-preserving finalizers finished")
	return next
}

func counted(counts map[string]int, format string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf(format, name, counts[name]))
	}
	return strings.Join(parts, ", ")
}
