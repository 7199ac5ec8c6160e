// Package owner decides and writes who controls an object: it adopts orphans that a controller's selector matches and releases
// what it no longer matches.
package owner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Verdict is what a controller does about one object.
type Verdict int

// The verdicts: leave alone what is another's, keep, adopt an orphan that matches, release what is owned and matches no more.
const (
	Ignore Verdict = iota
	Keep
	Adopt
	Release
)

// Judge decides about obj for the controller with the given UID. deleting says whether the controller itself is being deleted:
// then it neither adopts nor releases.
func Judge(obj metav1.Object, controller types.UID, selector labels.Selector, deleting bool) Verdict {
	ref := metav1.GetControllerOfNoCopy(obj)
	matches := selector.Matches(labels.Set(obj.GetLabels()))
	switch {
	case ref != nil && ref.UID != controller:
		return Ignore
	case ref != nil && matches:
		return Keep
	case ref != nil && !deleting:
		return Release
	case ref == nil && matches && !deleting && obj.GetDeletionTimestamp() == nil:
		return Adopt
	}
	return Ignore
}

// Claimer adopts and releases for one controller object. Children are of type T.
type Claimer[T metav1.Object] struct {
	// Controller is the object that owns, Kind its kind.
	Controller metav1.Object
	Kind       schema.GroupVersionKind
	Selector   labels.Selector
	// Fresh returns the controller as the API server has it now. It is asked before the first adoption, since a cached controller
	// may have been deleted or replaced.
	Fresh func(ctx context.Context) (metav1.Object, error)
	// Patch sends a strategic merge patch to a child.
	Patch func(ctx context.Context, child T, patch []byte) error
}

// Claim returns the children that the controller owns after adopting and releasing. An object that could not be adopted because
// it is gone or changed is left out; other errors are joined.
func (c *Claimer[T]) Claim(ctx context.Context, objects []T) ([]T, error) {
	var owned []T
	var failures []error
	var mayAdopt func() error
	for _, obj := range objects {
		switch Judge(obj, c.Controller.GetUID(), c.Selector, c.Controller.GetDeletionTimestamp() != nil) {
		case Keep:
			owned = append(owned, obj)
		case Adopt:
			if mayAdopt == nil {
				err := c.mayAdopt(ctx)
				mayAdopt = func() error { return err }
			}
			if err := mayAdopt(); err != nil {
				failures = append(failures, err)
				continue
			}
			err := c.adopt(ctx, obj)
			if err == nil {
				owned = append(owned, obj)
			} else if !apierrors.IsNotFound(err) {
				failures = append(failures, fmt.Errorf("adopt %s/%s: %w", obj.GetNamespace(), obj.GetName(), err))
			}
		case Release:
			// Invalid means that the reference in the patch is no longer there: somebody else released it.
			if err := c.release(ctx, obj); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
				failures = append(failures, fmt.Errorf("release %s/%s: %w", obj.GetNamespace(), obj.GetName(), err))
			}
		}
	}
	return owned, errors.Join(failures...)
}

func (c *Claimer[T]) mayAdopt(ctx context.Context) error {
	fresh, err := c.Fresh(ctx)
	if err != nil {
		return err
	}
	name := c.Controller.GetNamespace() + "/" + c.Controller.GetName()
	if fresh.GetUID() != c.Controller.GetUID() {
		return fmt.Errorf("%s %s was replaced: uid %s, wanted %s", c.Kind.Kind, name, fresh.GetUID(), c.Controller.GetUID())
	}
	if fresh.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%s %s is being deleted", c.Kind.Kind, name)
	}
	return nil
}

// metadataPatch is a strategic merge patch of an object's owner references; the UID makes it fail on a namesake.
type metadataPatch struct {
	Metadata struct {
		UID             types.UID `json:"uid"`
		OwnerReferences []any     `json:"ownerReferences"`
	} `json:"metadata"`
}

func (c *Claimer[T]) adopt(ctx context.Context, child T) error {
	return c.patch(ctx, child, *metav1.NewControllerRef(c.Controller, c.Kind))
}

func (c *Claimer[T]) release(ctx context.Context, child T) error {
	return c.patch(ctx, child, map[string]string{"$patch": "delete", "uid": string(c.Controller.GetUID())})
}

func (c *Claimer[T]) patch(ctx context.Context, child T, reference any) error {
	var patch metadataPatch
	patch.Metadata.UID = child.GetUID()
	patch.Metadata.OwnerReferences = []any{reference}
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	return c.Patch(ctx, child, body)
}
