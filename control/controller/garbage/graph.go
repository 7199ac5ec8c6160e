package garbage

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/control/controller/served"
)

// object is what the collector keeps of an API object: no more than decides about its deletion. It is immutable once in the graph.
type object struct {
	resource        *served.Resource
	namespace, name string
	uid             types.UID
	owners          []metav1.OwnerReference
	deleting        bool
	// orphans and foreground say that the finalizer of that name is set.
	orphans, foreground bool
}

func newObject(resource *served.Resource, meta metav1.Object) *object {
	return &object{
		resource:   resource,
		namespace:  meta.GetNamespace(),
		name:       meta.GetName(),
		uid:        meta.GetUID(),
		owners:     slices.Clone(meta.GetOwnerReferences()),
		deleting:   meta.GetDeletionTimestamp() != nil,
		orphans:    slices.Contains(meta.GetFinalizers(), metav1.FinalizerOrphanDependents),
		foreground: slices.Contains(meta.GetFinalizers(), metav1.FinalizerDeleteDependents),
	}
}

// waiting says whether the object's deletion waits for its dependents.
func (o *object) waiting() bool { return o.deleting && o.foreground }

// graph is all objects and who owns them. It is safe for concurrent use.
type graph struct {
	mu      sync.RWMutex
	objects map[types.UID]*object
	// dependents are the UIDs of what names an owner, under the owner's UID; the owner itself may not exist (any more).
	dependents map[types.UID]map[types.UID]struct{}
}

func newGraph() *graph {
	return &graph{objects: map[types.UID]*object{}, dependents: map[types.UID]map[types.UID]struct{}{}}
}

// put adds or replaces an object and returns what has to be looked at because of it.
func (g *graph) put(o *object) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.objects[o.uid]
	if old != nil {
		g.unlink(old)
	}
	g.objects[o.uid] = o
	for i := range o.owners {
		owner := o.owners[i].UID
		if g.dependents[owner] == nil {
			g.dependents[owner] = map[types.UID]struct{}{}
		}
		g.dependents[owner][o.uid] = struct{}{}
	}
	var affected []types.UID
	if o.deleting && (o.orphans || o.foreground) {
		affected = append(affected, o.uid)
	}
	if !o.deleting && len(o.owners) > 0 && (old == nil || !slices.EqualFunc(old.owners, o.owners, sameReference)) {
		// An owner that is known to live keeps it: there is nothing to look at.
		for i := range o.owners {
			if owner := g.objects[o.owners[i].UID]; owner == nil || owner.waiting() {
				affected = append(affected, o.uid)
				break
			}
		}
	}
	// An owner that waits for its dependents may have lost this one.
	if old != nil {
		affected = append(affected, g.waitingOwners(old)...)
	}
	return affected
}

// remove forgets an object and returns what has to be looked at because of it.
func (g *graph) remove(uid types.UID) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	o := g.objects[uid]
	if o == nil {
		return nil
	}
	g.unlink(o)
	delete(g.objects, uid)
	affected := g.waitingOwners(o)
	for dependent := range g.dependents[uid] {
		affected = append(affected, dependent)
	}
	return affected
}

func (g *graph) unlink(o *object) {
	for i := range o.owners {
		owner := o.owners[i].UID
		delete(g.dependents[owner], o.uid)
		if len(g.dependents[owner]) == 0 {
			delete(g.dependents, owner)
		}
	}
}

func (g *graph) waitingOwners(o *object) []types.UID {
	var waiting []types.UID
	for i := range o.owners {
		if owner := g.objects[o.owners[i].UID]; owner != nil && owner.waiting() {
			waiting = append(waiting, owner.uid)
		}
	}
	return waiting
}

func (g *graph) get(uid types.UID) *object {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.objects[uid]
}

// of returns the UIDs of all objects of a resource.
func (g *graph) of(resource *served.Resource) []types.UID {
	g.mu.RLock()
	defer g.mu.RUnlock()
	var uids []types.UID
	for uid, o := range g.objects {
		if o.resource == resource {
			uids = append(uids, uid)
		}
	}
	return uids
}

func (g *graph) dependentsOf(uid types.UID) []*object {
	g.mu.RLock()
	defer g.mu.RUnlock()
	found := make([]*object, 0, len(g.dependents[uid]))
	for dependent := range g.dependents[uid] {
		found = append(found, g.objects[dependent])
	}
	return found
}

func sameReference(a, b metav1.OwnerReference) bool {
	return a.UID == b.UID && blocks(a) == blocks(b)
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}
