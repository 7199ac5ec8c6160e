package registry

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/control/api"
)

// indexed is the selectable field by which the watch cache finds objects and watchers without looking at each: a node watches
// its own pods, and an agent single objects by name. The watch cache supports one for each kind.
func indexed(row *api.Resource) string {
	switch row.Kind {
	case "Pod":
		return "spec.nodeName"
	case "Secret", "ConfigMap", "Node":
		return "metadata.name"
	}
	return ""
}

// attributes gives what selectors see of an object.
func attributes(row *api.Resource) storage.AttrFunc {
	return func(obj runtime.Object) (labels.Set, fields.Set, error) {
		m, err := meta.Accessor(obj)
		if err != nil {
			return nil, nil, err
		}
		set := fields.Set{"metadata.name": m.GetName()}
		if row.Namespaced {
			set["metadata.namespace"] = m.GetNamespace()
		}
		if row.SelectableFields != nil {
			for key, value := range row.SelectableFields(obj) {
				set[key] = value
			}
		}
		return m.GetLabels(), set, nil
	}
}

// valueOf returns the value of the row's indexed field.
func valueOf(row *api.Resource, obj runtime.Object) string {
	_, set, err := attributes(row)(obj)
	if err != nil {
		return ""
	}
	return set[indexed(row)]
}

// triggers tells the watch cache to which watchers an object may matter.
func triggers(row *api.Resource) storage.IndexerFuncs {
	if indexed(row) == "" {
		return nil
	}
	return storage.IndexerFuncs{indexed(row): func(obj runtime.Object) string { return valueOf(row, obj) }}
}

// indexers lets the watch cache answer lists by the indexed field.
func indexers(row *api.Resource) *cache.Indexers {
	if indexed(row) == "" {
		return nil
	}
	return &cache.Indexers{storage.FieldIndex(indexed(row)): func(obj any) ([]string, error) {
		o, ok := obj.(runtime.Object)
		if !ok {
			return nil, fmt.Errorf("%T is no object", obj)
		}
		return []string{valueOf(row, o)}, nil
	}}
}

// predicate selects objects of the row, by index where there is one.
func predicate(row *api.Resource) func(labels.Selector, fields.Selector) storage.SelectionPredicate {
	attrs := attributes(row)
	var index []string
	if indexed(row) != "" {
		index = []string{indexed(row)}
	}
	return func(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
		return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: attrs, IndexFields: index}
	}
}
