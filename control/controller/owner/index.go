package owner

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// indexName is the index of namespaced objects by the UID of their controller; orphans are under their namespace, so that
// adoption does not look at all objects there are.
const indexName = "skep.io/controller"

func orphans(namespace string) string { return "orphan/" + namespace }

// AddIndex gives an informer the index that Controlled and Candidates read. It must be called before the informer starts;
// calling it again does nothing.
func AddIndex(informer cache.SharedIndexInformer) error {
	if _, done := informer.GetIndexer().GetIndexers()[indexName]; done {
		return nil
	}
	return informer.AddIndexers(cache.Indexers{indexName: func(obj any) ([]string, error) {
		child, ok := obj.(metav1.Object)
		if !ok {
			return nil, nil
		}
		if ref := metav1.GetControllerOfNoCopy(child); ref != nil {
			return []string{string(ref.UID)}, nil
		}
		return []string{orphans(child.GetNamespace())}, nil
	}})
}

// Controlled returns the objects whose controller has the UID. They are the cache's own: do not change them.
func Controlled[T any](indexer cache.Indexer, controller types.UID) ([]T, error) {
	return byIndex[T](nil, indexer, string(controller))
}

// Candidates returns what Claim needs to look at: what the controller controls and the orphans of its namespace.
func Candidates[T any](indexer cache.Indexer, controller metav1.Object) ([]T, error) {
	found, err := byIndex[T](nil, indexer, string(controller.GetUID()))
	if err != nil {
		return nil, err
	}
	return byIndex(found, indexer, orphans(controller.GetNamespace()))
}

func byIndex[T any](found []T, indexer cache.Indexer, value string) ([]T, error) {
	objects, err := indexer.ByIndex(indexName, value)
	if err != nil {
		return nil, err
	}
	for _, obj := range objects {
		if typed, ok := obj.(T); ok {
			found = append(found, typed)
		}
	}
	return found, nil
}
