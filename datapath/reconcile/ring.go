package reconcile

import (
	"net/netip"
	"slices"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/maglev"
)

// rings hands out runs of blocks in the map of rings.
type rings struct {
	used [bpfmap.RingBlocks]bool
	// next is where the search for a run begins, so that a freed one rests.
	next int
}

// blocks is how many blocks a ring of so many places takes.
func blocks(size uint32) int {
	return (int(size) + bpfmap.RingBlock - 1) / bpfmap.RingBlock
}

// take returns the first block of a run for a ring of so many places; false: there is no room.
func (r *rings) take(size uint32) (uint32, bool) {
	n := blocks(size)
	for _, from := range []int{r.next, 0} {
		for run, i := 0, from; i < len(r.used); i++ {
			if run++; r.used[i] {
				run = 0
			}
			if run == n {
				r.next = i + 1
				r.mark(uint32(i+1-n), size, true)
				return uint32(i + 1 - n), true
			}
		}
	}
	return 0, false
}

func (r *rings) mark(block, size uint32, used bool) {
	for i := range blocks(size) {
		if at := int(block) + i; at < len(r.used) {
			r.used[at] = used
		}
	}
}

// ring writes the ring of a service for the backends in its slots where the one that it has will not do, and returns where the new one
// is. The old one stays until the service row leads away from it. Without room there is none, and flows are spread at random;
// Rings tells how many services are without.
func (t *Services) ring(s *service, row desired.Service, slots []desired.Backend) (block, size uint32, err error) {
	want := uint32(0)
	if row.Ring {
		want = uint32(maglev.Size(len(slots)))
	}
	delete(t.ringless, s)
	if want == 0 {
		return 0, 0, nil
	}
	if s.row.RingSize == want && slices.Equal(s.ringed, slots) {
		return s.row.Ring, want, nil
	}
	block, ok := t.rings.take(want)
	if !ok {
		t.ringless[s] = struct{}{}
		return 0, 0, nil
	}
	addresses := make([]netip.AddrPort, len(slots))
	for i, b := range slots {
		addresses[i] = b.Address
	}
	if err := t.maps.PutRing(block, maglev.Ring(int(want), addresses)); err != nil {
		t.rings.mark(block, want, false)
		return 0, 0, err
	}
	return block, want, nil
}

// release frees a ring that the row of s was not led to after all.
func (t *Services) release(block, size uint32, s *service) {
	if block != s.row.Ring {
		t.rings.mark(block, size, false)
	}
}

// restore marks the rings that services have in the kernel.
func (r *rings) restore(services map[uint32]*service) {
	for _, s := range services {
		r.mark(s.row.Ring, s.row.RingSize, true)
	}
}

// Ringless is how many services should have a ring and have none for want of room.
func (t *Services) Ringless() int { return len(t.ringless) }
