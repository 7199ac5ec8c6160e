// Package maglev spreads flows over backends by a ring that every node makes alike, and of which little changes when backends come
// and go: Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4).
package maglev

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
)

// sizes are the lengths that rings have, all prime: the least that is so many times the number of backends.
var sizes = [...]int{61, 251, 1021, 4093, 16381, 65521}

// share is how many places a backend has at least, so that no two differ by more than a few percent.
const share = 30

// Size returns the length of the ring for so many backends; 0: one backend or none needs no ring.
func Size(backends int) int {
	if backends < 2 {
		return 0
	}
	for _, size := range sizes {
		if size >= share*backends {
			return size
		}
	}
	return sizes[len(sizes)-1]
}

// Ring returns a ring of the given prime length: at each place the index of a backend. It depends on the set of backends alone, but
// for the indexes: each backend has the same places whatever its index is.
func Ring(size int, backends []netip.AddrPort) []uint16 {
	ring := make([]uint16, size)
	taken := make([]bool, size)
	type walk struct{ next, skip int }
	walks := make([]walk, len(backends))
	order := byName(backends)
	for i, b := range backends {
		walks[i].next = int(hash(b, 0) % uint64(size))
		walks[i].skip = int(hash(b, 1)%uint64(size-1)) + 1
	}
	for left := size; ; {
		// Who is first to choose must not depend on the index either.
		for _, i := range order {
			w := &walks[i]
			for taken[w.next] {
				w.next = (w.next + w.skip) % size
			}
			ring[w.next], taken[w.next] = uint16(i), true
			if left--; left == 0 {
				return ring
			}
		}
	}
}

func hash(b netip.AddrPort, seed byte) uint64 {
	h := fnv.New64a()
	addr := b.Addr().As16()
	h.Write([]byte{seed})
	h.Write(addr[:])
	h.Write(binary.BigEndian.AppendUint16(nil, b.Port()))
	// FNV mixes its last bytes badly into the low bits.
	s := h.Sum64()
	s ^= s >> 32
	s *= 0xd6e8feb86659fd93
	return s ^ s>>32
}

// byName returns the indexes of backends in the order of their addresses.
func byName(backends []netip.AddrPort) []int {
	order := make([]int, len(backends))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return backends[a].Compare(backends[b]) })
	return order
}
