package ipam

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Pools are the pools of one node, one for each family: a pod has an address of each.
type Pools []*Pool

// NewPools makes a pool of each prefix, as [New] does. Addresses in use may be of any of them.
func NewPools(prefixes []netip.Prefix, used map[netip.Addr]string, now func() time.Time) (Pools, error) {
	pools := make(Pools, 0, len(prefixes))
	for _, prefix := range prefixes {
		p, err := New(prefix, used, now)
		if err != nil {
			return nil, err
		}
		pools = append(pools, p)
	}
	return pools, nil
}

// Allocate returns owner's addresses in the order of the prefixes, choosing those that it has not. On an error it has none.
func (p Pools) Allocate(owner string) ([]netip.Addr, error) {
	addrs := make([]netip.Addr, 0, len(p))
	for _, pool := range p {
		addr, err := pool.Allocate(owner)
		if err != nil {
			p.Release(owner)
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// Owners are those that have addresses, in no order.
func (p Pools) Owners() []string {
	owners := map[string]struct{}{}
	for _, pool := range p {
		pool.mu.Lock()
		for owner := range pool.byOwner {
			owners[owner] = struct{}{}
		}
		pool.mu.Unlock()
	}
	return slices.Collect(maps.Keys(owners))
}

// Release gives owner's addresses back; an owner without any is no error.
func (p Pools) Release(owner string) {
	for _, pool := range p {
		pool.Release(owner)
	}
}
