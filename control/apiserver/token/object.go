package token

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Objects are the stores of what tokens name. All are required.
type Objects struct {
	ServiceAccounts, Pods, Secrets, Nodes rest.Getter
}

// object is what get finds.
type object interface {
	runtime.Object
	metav1.Object
}

// get reads an object as it is now. Errors are those of the API.
func get[T object](ctx context.Context, store rest.Getter, namespace, name string) (T, error) {
	return read[T](ctx, store, namespace, name, &metav1.GetOptions{})
}

// find reads the object with the name and, if there is one, the UID. What a watch cache holds is good enough if it has that UID:
// every request with a token asks, and an object deleted a moment ago may still vouch for it. Anything else is read from the store.
func find[T object](ctx context.Context, store rest.Getter, namespace, name string, uid types.UID) (T, error) {
	cached, err := read[T](ctx, store, namespace, name, &metav1.GetOptions{ResourceVersion: "0"})
	if err == nil && cached.GetUID() == uid {
		return cached, nil
	}
	return get[T](ctx, store, namespace, name)
}

func read[T object](ctx context.Context, store rest.Getter, namespace, name string, o *metav1.GetOptions) (T, error) {
	var none T
	obj, err := store.Get(genericapirequest.WithNamespace(ctx, namespace), name, o)
	if err != nil {
		return none, err
	}
	found, ok := obj.(T)
	if !ok {
		return none, fmt.Errorf("store of %T returned a %T", none, obj)
	}
	return found, nil
}

// node reads the node that a pod runs on, for its UID. A token may name a node that is not there.
func (o Objects) node(ctx context.Context, name string) (*corev1.Node, error) {
	node, err := read[*corev1.Node](ctx, o.Nodes, metav1.NamespaceNone, name, &metav1.GetOptions{ResourceVersion: "0"})
	if err == nil {
		return node, nil
	}
	return get[*corev1.Node](ctx, o.Nodes, metav1.NamespaceNone, name)
}
