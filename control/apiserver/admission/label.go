package admission

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// nodeLabels are the labels of Kubernetes' own domains that a node may set on itself; besides those of nodeDomains.
var nodeLabels = []string{
	corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
	corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelOSStable, corev1.LabelArchStable,
	"beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

// nodeDomains are domains in which all labels are the node's.
var nodeDomains = []string{corev1.LabelNamespaceSuffixKubelet, corev1.LabelNamespaceSuffixNode}

// foreignLabels are the labels that differ and that a node must leave alone, in order. Pods are kept off nodes by such labels,
// so a node that set them could draw pods with secrets to itself.
func foreignLabels(after, before map[string]string) []string {
	var foreign []string
	changed := func(a, b map[string]string) {
		for key, value := range a {
			if other, ok := b[key]; (!ok || other != value) && !ownLabel(key) && !slices.Contains(foreign, key) {
				foreign = append(foreign, key)
			}
		}
	}
	changed(after, before)
	changed(before, after)
	slices.Sort(foreign)
	return foreign
}

// ownLabel says whether a node may set the label on itself.
func ownLabel(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok {
		return true
	}
	if within(domain, corev1.LabelNamespaceNodeRestriction) {
		return false
	}
	if !within(domain, "kubernetes.io") && !within(domain, "k8s.io") || slices.Contains(nodeLabels, key) {
		return true
	}
	return slices.ContainsFunc(nodeDomains, func(d string) bool { return within(domain, d) })
}

// within says whether domain is parent or a subdomain of it.
func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}
