package maglev

import (
	"net/netip"
	"slices"
	"testing"
)

func backends(n int) []netip.AddrPort {
	list := make([]netip.AddrPort, n)
	for i := range list {
		list[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), 8080)
	}
	return list
}

func TestShares(t *testing.T) {
	for _, n := range []int{2, 3, 8, 34, 100, 500} {
		size := Size(n)
		counts := make([]int, n)
		for _, i := range Ring(size, backends(n)) {
			counts[i]++
		}
		least, most := slices.Min(counts), slices.Max(counts)
		if most-least > 1+size/n/10 {
			t.Errorf("%d backends of %d places have between %d and %d", n, size, least, most)
		}
	}
}

// TestOrder: two nodes have the same backends at other indexes.
func TestOrder(t *testing.T) {
	one := backends(20)
	other := slices.Clone(one)
	slices.Reverse(other)
	a, b := Ring(Size(20), one), Ring(Size(20), other)
	for place := range a {
		if one[a[place]] != other[b[place]] {
			t.Fatalf("place %d: %s on one node, %s on another", place, one[a[place]], other[b[place]])
		}
	}
}

// TestDisruption: when one of n backends goes, little more than its own share moves.
func TestDisruption(t *testing.T) {
	const n = 30
	before := backends(n)
	after := slices.Delete(slices.Clone(before), 7, 8)
	size := Size(n)
	a, b := Ring(size, before), Ring(size, after)
	moved := 0
	for place := range a {
		if before[a[place]] != before[7] && before[a[place]] != after[b[place]] {
			moved++
		}
	}
	if moved > size/n*2 {
		t.Errorf("%d of %d places moved besides those of the backend that went", moved, size)
	}
}
