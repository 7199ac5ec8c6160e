package reconcile

import "slices"

// ids hands out the numbers by which tables refer to each other, from 1: 0 is what an empty map holds.
type ids struct {
	last uint32
	free []uint32
}

// idRest is how many freed ids wait before the first of them is used again, for a packet on its way through the old tables.
const idRest = 256

func (n *ids) take() uint32 {
	if len(n.free) > idRest {
		id := n.free[0]
		n.free = n.free[1:]
		return id
	}
	n.last++
	return n.last
}

func (n *ids) give(id uint32) { n.free = append(n.free, id) }

// restoreIDs continues above the highest id in use; the gaps below it are free.
func restoreIDs(used []uint32) ids {
	slices.Sort(used)
	var n ids
	for _, id := range used {
		for n.last+1 < id {
			n.last++
			n.free = append(n.free, n.last)
		}
		n.last = max(n.last, id)
	}
	return n
}
