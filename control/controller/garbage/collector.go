// Package garbage deletes objects whose owners are gone, and completes deletions that wait for dependents (foreground) or leave them
// behind (orphan).
//
// It watches the metadata of all deletable resources straight into a graph that keeps only what deletion depends on; there is no cache
// of the objects beside it.
package garbage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"

	"github.com/skep-io/skep/control/controller/queue"
	"github.com/skep-io/skep/control/controller/served"
)

const workers = 8

// Controller is the garbage collector.
type Controller struct {
	discovery discovery.DiscoveryInterface
	metadata  metadata.Interface
	logger    *slog.Logger
	graph     *graph
	queue     *queue.Queue // keys are UIDs
	kinds     map[schema.GroupKind]*served.Resource
}

// New returns a collector. It asks the API server for nothing before Run.
func New(discovery discovery.DiscoveryInterface, metadata metadata.Interface, logger *slog.Logger) *Controller {
	c := &Controller{discovery: discovery, metadata: metadata, logger: logger, graph: newGraph()}
	c.queue = queue.New("garbage", c.sync, logger)
	return c
}

// Run watches the resources that are served now and collects until ctx ends. Nothing is deleted before all of them were listed.
func (c *Controller) Run(ctx context.Context) {
	resources, err := served.Deletable(c.discovery)
	if err != nil {
		// What could not be discovered is not watched: its objects are asked for one by one where they own something.
		c.logger.Warn("garbage collection without some groups", "error", err)
	}
	c.kinds = map[schema.GroupKind]*served.Resource{}
	var group sync.WaitGroup
	var monitors []*monitor
	for i := range resources {
		resource := &resources[i]
		if !resource.Can("watch") {
			continue
		}
		c.kinds[schema.GroupKind{Group: resource.Group, Kind: resource.Kind}] = resource
		monitors = append(monitors, newMonitor(resource, c.graph, c.add))
	}
	for _, m := range monitors {
		group.Go(func() { m.run(ctx, c.metadata) })
	}
	group.Go(func() {
		for _, m := range monitors {
			select {
			case <-m.listed:
			case <-ctx.Done():
			}
		}
		c.queue.Run(ctx, workers)
	})
	group.Wait()
}

func (c *Controller) add(uids []types.UID) {
	for _, uid := range uids {
		c.queue.Add(string(uid))
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	o := c.graph.get(types.UID(key))
	switch {
	case o == nil:
		return nil
	case o.deleting && o.orphans:
		return c.orphan(ctx, o)
	case o.waiting():
		return c.advance(ctx, o)
	case o.deleting || len(o.owners) == 0:
		return nil
	}
	fates, err := c.fates(ctx, o)
	if err != nil {
		return err
	}
	todo := decide(o, fates, len(c.graph.dependentsOf(o.uid)) > 0)
	switch {
	case todo.remove != "":
		return c.remove(ctx, o, todo.remove)
	case len(todo.release) > 0:
		return c.release(ctx, o, todo.release)
	}
	return nil
}

func (c *Controller) fates(ctx context.Context, o *object) ([]fate, error) {
	fates := make([]fate, len(o.owners))
	for i := range o.owners {
		var err error
		if fates[i], err = c.fate(ctx, o, &o.owners[i]); err != nil {
			return nil, err
		}
	}
	return fates, nil
}

// fate looks for an owner in the graph and, since the watches of two resources do not keep step, asks the API server before it calls
// one gone. A kind that is not served, or a namespaced owner of a cluster-wide object, cannot be judged: that owner counts as living.
func (c *Controller) fate(ctx context.Context, o *object, ref *metav1.OwnerReference) (fate, error) {
	if owner := c.graph.get(ref.UID); owner != nil && (!owner.resource.Namespaced || owner.namespace == o.namespace) {
		if owner.waiting() {
			return goes, nil
		}
		return lives, nil
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return lives, nil
	}
	resource := c.kinds[schema.GroupKind{Group: gv.Group, Kind: ref.Kind}]
	if resource == nil || resource.Namespaced && o.namespace == "" {
		return lives, nil
	}
	owner, err := c.at(resource, o.namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return gone, nil
	case err != nil:
		return lives, fmt.Errorf("look for owner %s %s of %s: %w", ref.Kind, ref.Name, o, err)
	case owner.UID != ref.UID:
		return gone, nil
	case newObject(resource, owner).waiting():
		return goes, nil
	}
	return lives, nil
}

// String names the object for errors and logs.
func (o *object) String() string {
	if o.namespace == "" {
		return o.resource.Resource + " " + o.name
	}
	return o.resource.Resource + " " + o.namespace + "/" + o.name
}

func (c *Controller) at(resource *served.Resource, namespace string) metadata.ResourceInterface {
	if resource.Namespaced {
		return c.metadata.Resource(resource.GroupVersionResource).Namespace(namespace)
	}
	return c.metadata.Resource(resource.GroupVersionResource)
}

func (c *Controller) remove(ctx context.Context, o *object, policy metav1.DeletionPropagation) error {
	err := c.at(o.resource, o.namespace).Delete(ctx, o.name, metav1.DeleteOptions{
		Preconditions:     metav1.NewUIDPreconditions(string(o.uid)),
		PropagationPolicy: &policy,
	})
	if gonePast(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", o, err)
	}
	c.logger.Debug("deleted what nobody owns", "object", o.String(), "policy", policy)
	return nil
}

// release takes owner references away.
func (c *Controller) release(ctx context.Context, o *object, owners []types.UID) error {
	return c.edit(ctx, o, "ownerReferences", func(current *metav1.PartialObjectMetadata) any {
		return slices.DeleteFunc(current.OwnerReferences, func(ref metav1.OwnerReference) bool { return slices.Contains(owners, ref.UID) })
	})
}

// orphan frees the dependents first: with the finalizer gone the object goes, and they would be collected.
func (c *Controller) orphan(ctx context.Context, o *object) error {
	var failures []error
	for _, dependent := range c.graph.dependentsOf(o.uid) {
		failures = append(failures, c.release(ctx, dependent, []types.UID{o.uid}))
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	return c.dropFinalizer(ctx, o, metav1.FinalizerOrphanDependents)
}

// advance moves a foreground deletion on: it starts the deletion of the dependents, and lets the object go when none blocks it.
func (c *Controller) advance(ctx context.Context, o *object) error {
	dependents := c.graph.dependentsOf(o.uid)
	for _, dependent := range dependents {
		if !dependent.deleting {
			c.queue.Add(string(dependent.uid))
		}
	}
	if blocked(o.uid, dependents) {
		return nil // the event of the last one's end comes back here
	}
	return c.dropFinalizer(ctx, o, metav1.FinalizerDeleteDependents)
}

func (c *Controller) dropFinalizer(ctx context.Context, o *object, finalizer string) error {
	return c.edit(ctx, o, "finalizers", func(current *metav1.PartialObjectMetadata) any {
		return slices.DeleteFunc(current.Finalizers, func(name string) bool { return name == finalizer })
	})
}

// edit replaces one list of the object's metadata, by what change makes of the object as it is now. The resource version in the patch
// keeps what somebody else writes at the same time: the conflict brings the object back here. A merge patch is what all kinds understand.
func (c *Controller) edit(ctx context.Context, o *object, list string, change func(current *metav1.PartialObjectMetadata) any) error {
	client := c.at(o.resource, o.namespace)
	current, err := client.Get(ctx, o.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && current.UID != o.uid {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", o, err)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":             current.UID,
		"resourceVersion": current.ResourceVersion,
		list:              change(current),
	}})
	if err != nil {
		return err
	}
	_, err = client.Patch(ctx, o.name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("change %s of %s: %w", list, o, err)
	}
	return nil
}

// gonePast says that the object is gone, or another one has its name now.
func gonePast(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }
