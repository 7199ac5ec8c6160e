package garbage

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// fate is what an owner reference's target turned out to be.
type fate int

const (
	lives fate = iota
	// goes: it is being deleted and waits for its dependents.
	goes
	gone
)

// verdict is what happens to an object that is not being deleted itself.
type verdict struct {
	// remove with this policy; "" keeps the object.
	remove metav1.DeletionPropagation
	// release are the references to take away from an object that stays.
	release []types.UID
}

// decide judges an object by the fates of its owners, which are in the order of its references. One living owner keeps it.
func decide(o *object, fates []fate, hasDependents bool) verdict {
	var release []types.UID
	kept, anyGoes := false, false
	for i, f := range fates {
		switch f {
		case lives:
			kept = true
			continue
		case goes:
			anyGoes = true
		}
		release = append(release, o.owners[i].UID)
	}
	switch {
	case len(fates) == 0 || kept && len(release) == 0:
		return verdict{}
	case kept:
		return verdict{release: release}
	case anyGoes && hasDependents:
		// The owner waits for this one, so this one waits for its own.
		return verdict{remove: metav1.DeletePropagationForeground}
	case o.orphans:
		return verdict{remove: metav1.DeletePropagationOrphan}
	case o.foreground:
		return verdict{remove: metav1.DeletePropagationForeground}
	}
	return verdict{remove: metav1.DeletePropagationBackground}
}

// blocked says whether a dependent still holds up the foreground deletion of the owner.
func blocked(owner types.UID, dependents []*object) bool {
	for _, dependent := range dependents {
		for i := range dependent.owners {
			if dependent.owners[i].UID == owner && blocks(dependent.owners[i]) {
				return true
			}
		}
	}
	return false
}
