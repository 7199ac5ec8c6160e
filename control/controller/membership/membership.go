// Package membership finds the Services that a pod belongs to without looking at all Services of its namespace.
package membership

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
	endpointsliceutil "k8s.io/endpointslice/util"
)

// indexName is the index of Services by one label of their selector: a pod that matches has that label, so its few labels lead to the
// few Services that can match.
const indexName = "skep.io/selector"

func indexKey(namespace, label, value string) string { return namespace + "/" + label + "=" + value }

// AddIndex gives the Service informer the index that ForPod reads. It must be called before the informer starts; calling it again does
// nothing.
func AddIndex(informer cache.SharedIndexInformer) error {
	if _, done := informer.GetIndexer().GetIndexers()[indexName]; done {
		return nil
	}
	return informer.AddIndexers(cache.Indexers{indexName: func(obj any) ([]string, error) {
		service, ok := obj.(*corev1.Service)
		if !ok || service.Spec.Selector == nil {
			return nil, nil // no selector matches nothing
		}
		if len(service.Spec.Selector) == 0 {
			return []string{indexKey(service.Namespace, "", "")}, nil
		}
		label := slices.Min(slices.Collect(maps.Keys(service.Spec.Selector)))
		return []string{indexKey(service.Namespace, label, service.Spec.Selector[label])}, nil
	}})
}

// ForChange returns the keys of the Services whose endpoints a pod event may change. Either of before and after may be nil; tombstones
// are understood. Most pod updates change no endpoint and return nothing.
func ForChange(services cache.Indexer, before, after any) ([]string, error) {
	change := endpointsliceutil.GetPodUpdateProjectionKey(before, after)
	if change == nil {
		return nil, nil
	}
	keys, err := matching(services, change.Namespace, change.Labels)
	if err != nil || change.OldLabels == nil {
		return keys, err
	}
	former, err := matching(services, change.Namespace, change.OldLabels)
	return append(keys, former...), err
}

func matching(services cache.Indexer, namespace string, podLabels labels.Set) ([]string, error) {
	keys, err := selecting(nil, services, indexKey(namespace, "", ""), podLabels)
	for label, value := range podLabels {
		if err != nil {
			return nil, err
		}
		keys, err = selecting(keys, services, indexKey(namespace, label, value), podLabels)
	}
	return keys, err
}

func selecting(keys []string, services cache.Indexer, index string, podLabels labels.Set) ([]string, error) {
	found, err := services.ByIndex(indexName, index)
	if err != nil {
		return nil, err
	}
	for _, obj := range found {
		if service, ok := obj.(*corev1.Service); ok && labels.SelectorFromValidatedSet(service.Spec.Selector).Matches(podLabels) {
			keys = append(keys, service.Namespace+"/"+service.Name)
		}
	}
	return keys, nil
}
