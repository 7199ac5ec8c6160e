// Package allocation gives Services their cluster IPs and node ports. What is taken is kept in memory and rebuilt from the
// stored Services before the first request, so that a crash can neither lose nor repeat one.
package allocation

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
)

// The errors of a pool; upstream's words.
var (
	errFull      = errors.New("range is full")
	errAllocated = errors.New("provided port is already allocated")
	errTaken     = errors.New("provided IP is already allocated")
)

// pool hands out the numbers 0 to size-1, each to one owner. It is safe for concurrent use.
type pool struct {
	size int
	// band is the lower part that is given only when asked for, or when the rest is full: a number chosen by hand is likely
	// to be low (KEP-3070, KEP-3668).
	band  int
	taken error

	mu     sync.Mutex
	owners map[int]string
}

func newPool(size, band int, taken error) *pool {
	return &pool{size: size, band: min(band, size), taken: taken, owners: map[int]string{}}
}

// take gives owner the number n, which it may hold already; fresh says that it did not.
func (p *pool) take(n int, owner string) (fresh bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	held, ok := p.owners[n]
	if ok && held != owner {
		return false, p.taken
	}
	p.owners[n] = owner
	return !ok, nil
}

// next gives owner a free number, a random one of the upper part first.
func (p *pool) next(owner string) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range [2][2]int{{p.band, p.size}, {0, p.band}} {
		width := part[1] - part[0]
		if width <= 0 {
			continue
		}
		start := rand.IntN(width)
		for i := range width {
			n := part[0] + (start+i)%width
			if _, ok := p.owners[n]; !ok {
				p.owners[n] = owner
				return n, nil
			}
		}
	}
	return 0, errFull
}

// release frees a number that owner holds.
func (p *pool) release(n int, owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.owners[n] == owner {
		delete(p.owners, n)
	}
}

// maxHostBits bounds how many addresses of a range are given out: some millions of Services.
const maxHostBits = 24

// addresses are the cluster IPs of one range.
type addresses struct {
	*pool
	prefix netip.Prefix
}

// newAddresses leaves out the network's own and the broadcast address.
func newAddresses(prefix netip.Prefix) addresses {
	size := 1 << min(prefix.Addr().BitLen()-prefix.Bits(), maxHostBits)
	return addresses{newPool(size-2, min(max(16, size/16), 256), errTaken), prefix.Masked()}
}

// index is the number of an address; ok is false outside the range.
func (a addresses) index(ip netip.Addr) (n int, ok bool) {
	if !a.prefix.Contains(ip) {
		return 0, false
	}
	n = int(lastWord(ip) - lastWord(a.prefix.Addr()))
	return n - 1, n >= 1 && n <= a.size && a.address(n-1) == ip
}

// lastWord is the part of an address that differs within a range.
func lastWord(ip netip.Addr) uint32 {
	b := ip.AsSlice()
	return binary.BigEndian.Uint32(b[len(b)-4:])
}

func (a addresses) address(n int) netip.Addr {
	b := a.prefix.Addr().AsSlice()
	binary.BigEndian.PutUint32(b[len(b)-4:], lastWord(a.prefix.Addr())+uint32(n)+1)
	ip, _ := netip.AddrFromSlice(b) // as long as an address is
	return ip
}

// Ports bounds the node ports, both included.
type Ports struct{ Min, Max int32 }

func (p Ports) String() string { return fmt.Sprintf("%d-%d", p.Min, p.Max) }

func newPorts(r Ports) *pool {
	size := int(r.Max - r.Min + 1)
	return newPool(size, min(max(16, size/32), 128), errAllocated)
}
