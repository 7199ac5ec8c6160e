package main

import (
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/skep-io/skep/control/api"
)

// The storages of this file have the shape of those of the API server and nothing behind it: the installer looks at which interfaces
// they implement and makes the routes, but no request ever arrives. Hence the embedded interfaces are nil.

// resource is a stored kind.
type resource struct {
	rest.StandardStorage
	row *api.Resource
}

func (r resource) New() runtime.Object     { return r.row.New() }
func (r resource) NewList() runtime.Object { return r.row.NewList() }
func (r resource) NamespaceScoped() bool   { return r.row.Namespaced }
func (r resource) GetSingularName() string { return r.row.Singular }

// singly is a stored kind whose objects can only be deleted one by one.
type singly struct {
	rest.Getter
	rest.Lister
	rest.CreaterUpdater
	rest.GracefulDeleter
	rest.Watcher
	resource resource
}

func (s singly) New() runtime.Object     { return s.resource.New() }
func (s singly) NewList() runtime.Object { return s.resource.NewList() }
func (s singly) NamespaceScoped() bool   { return s.resource.NamespaceScoped() }
func (s singly) GetSingularName() string { return s.resource.GetSingularName() }
func (s singly) Destroy()                {}

// review is a request that is answered and not stored.
type review struct {
	rest.Creater
	subject    runtime.Object
	singular   string
	namespaced bool
}

func (r review) New() runtime.Object     { return r.subject.DeepCopyObject() }
func (r review) NamespaceScoped() bool   { return r.namespaced }
func (r review) GetSingularName() string { return r.singular }
func (r review) Destroy()                {}

// part is a subresource that is read and written: of the kind of its resource, or of the kind that body names.
type part struct {
	rest.Patcher
	body kind
}

func (p part) New() runtime.Object { return p.body.New() }
func (p part) Destroy()            {}
func (p part) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return p.body.gvk
}

// replaced is a subresource that is only written.
type replaced struct {
	rest.Updater
	body kind
}

func (r replaced) New() runtime.Object { return r.body.New() }
func (r replaced) Destroy()            {}

// action is a subresource that something is posted to.
type action struct {
	rest.NamedCreater
	body kind
}

func (a action) New() runtime.Object { return a.body.New() }
func (a action) Destroy()            {}
func (a action) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return a.body.gvk
}

// kind is a Go type with its name on the wire.
type kind struct {
	gvk    schema.GroupVersionKind
	object runtime.Object
}

// New returns an empty object.
func (k kind) New() runtime.Object { return k.object.DeepCopyObject() }

// text is a subresource that is read as text, with options.
type text struct {
	body    kind
	options runtime.Object
	rest.GetterWithOptions
}

func (t text) New() runtime.Object { return t.body.New() }
func (t text) Destroy()            {}
func (t text) NewGetOptions() (runtime.Object, bool, string) {
	return t.options.DeepCopyObject(), false, ""
}
func (t text) ProducesMIMETypes(string) []string { return []string{"text/plain"} }
func (t text) ProducesObject(string) any         { return "" }

// connection is a subresource that is a stream.
type connection struct {
	options runtime.Object
	rest.Connecter
}

func (c connection) New() runtime.Object { return c.options.DeepCopyObject() }
func (c connection) Destroy()            {}

func (c connection) NewConnectOptions() (runtime.Object, bool, string) {
	return c.options.DeepCopyObject(), false, ""
}

func (c connection) ConnectMethods() []string {
	return []string{http.MethodGet, http.MethodPost}
}
