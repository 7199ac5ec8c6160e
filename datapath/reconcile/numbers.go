package reconcile

// numbers are the names of things in the kernel.
type numbers[K comparable] struct {
	base uint32 // the lowest one
	ids  ids
	of   map[K]uint32
	// unclaimed are numbers that an earlier process gave to what may still be wanted.
	unclaimed map[uint32]struct{}
}

func restoreNumbers[K comparable](base uint32, used map[uint32]struct{}) numbers[K] {
	n := numbers[K]{base: base, of: map[K]uint32{}, unclaimed: used}
	var list []uint32
	for number := range used {
		if number >= base {
			list = append(list, number-base+1)
		}
	}
	n.ids = restoreIDs(list)
	return n
}

// claim gives a thing the number that it had; the first to claim a number has it.
func (n *numbers[K]) claim(k K, number uint32) {
	if _, has := n.of[k]; has {
		return
	}
	if _, free := n.unclaimed[number]; free {
		delete(n.unclaimed, number)
		n.of[k] = number
	}
}

// take returns the number of a thing, a new one if it has none.
func (n *numbers[K]) take(k K) uint32 {
	if number, has := n.of[k]; has {
		return number
	}
	number := n.ids.take() + n.base - 1
	n.of[k] = number
	return number
}

// Counts returns how many sets and identities there are.
func (t *Policies) Counts() (sets, identities int) { return len(t.sets.of), len(t.identities.of) }

// name returns whose a number is.
func (n *numbers[K]) name(number uint32) (k K, ok bool) {
	for k, v := range n.of {
		if v == number {
			return k, true
		}
	}
	return k, false
}

// drop gives a number back.
func (n *numbers[K]) drop(k K) {
	if number, has := n.of[k]; has && number >= n.base {
		delete(n.of, k)
		n.ids.give(number - n.base + 1)
	}
}

// release gives back what nobody claimed.
func (n *numbers[K]) release() {
	for number := range n.unclaimed {
		if number >= n.base {
			n.ids.give(number - n.base + 1)
		}
	}
	clear(n.unclaimed)
}

// votes are what numbers of an earlier process shall mean, and the other way round.
type votes[K comparable] struct {
	names   map[uint32]map[K]struct{}
	numbers map[K]map[uint32]struct{}
}

func newVotes[K comparable]() votes[K] {
	return votes[K]{map[uint32]map[K]struct{}{}, map[K]map[uint32]struct{}{}}
}

// add notes that who had a number shall have what is named. 0 is no number: whoever had it was free.
func (v votes[K]) add(number uint32, k K) {
	if number == 0 {
		return
	}
	if v.names[number] == nil {
		v.names[number] = map[K]struct{}{}
	}
	if v.numbers[k] == nil {
		v.numbers[k] = map[uint32]struct{}{}
	}
	v.names[number][k] = struct{}{}
	v.numbers[k][number] = struct{}{}
}

func (v votes[K]) elect(n *numbers[K]) {
	var none K
	for number, names := range v.names {
		for k := range names {
			if len(names) == 1 && len(v.numbers[k]) == 1 && k != none {
				n.claim(k, number)
			}
		}
	}
}
