// Package ipam hands out the pod addresses of one node. It keeps no file: the kernel's links are the record, and the
// caller restores the pool from them at start, so an address can never be both in use and free.
package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// ErrExhausted is returned when every address of the pool is in use or was freed less than the reuse delay ago.
var ErrExhausted = errors.New("no free pod address")

// ReuseDelay is how long a freed address rests. Everybody who may still send to the previous owner (a peer with a stale
// backend, a packet in flight, a resolver's cache of a headless name with its 5 s TTL) has let go by then.
const ReuseDelay = 5 * time.Second

// Pool is the set of pod addresses of one node. It is safe for concurrent use.
type Pool struct {
	prefix netip.Prefix
	router netip.Addr
	now    func() time.Time

	mu      sync.Mutex
	byOwner map[string]netip.Addr
	byAddr  map[netip.Addr]string
	// fresh is the next address that was never handed out; invalid when there is none left.
	fresh netip.Addr
	// resting holds freed addresses, the longest free first.
	resting []rest
}

type rest struct {
	addr  netip.Addr
	since time.Time
}

// maxBits6 is the part of an IPv6 prefix that is handed out from: as many addresses as nobody will miss, few enough that what was
// used before need not be remembered for ever.
const maxBits6 = 112

// New makes a pool of the addresses of prefix, which must hold at least 4. The network address, the router's (the first) and the
// last address, which is IPv4's broadcast address, are never handed out. Of an IPv6 prefix only the first 65,536 are. used maps addresses that are in use to their owners;
// those outside the prefix are ignored, since the node's range may have changed under pods that still run.
func New(prefix netip.Prefix, used map[netip.Addr]string, now func() time.Time) (*Pool, error) {
	if !prefix.IsValid() || prefix.Addr().BitLen()-prefix.Bits() < 2 {
		return nil, fmt.Errorf("pod CIDR %s: want a prefix of at least 4 addresses", prefix)
	}
	if prefix.Addr().Is6() {
		prefix = netip.PrefixFrom(prefix.Masked().Addr(), max(prefix.Bits(), maxBits6))
	}
	p := &Pool{
		prefix:  prefix.Masked(),
		router:  Router(prefix),
		now:     now,
		byOwner: map[string]netip.Addr{},
		byAddr:  map[netip.Addr]string{},
	}
	highest := p.router
	for addr, owner := range used {
		if !p.usable(addr) {
			continue
		}
		if other, taken := p.byOwner[owner]; taken {
			return nil, fmt.Errorf("pod %s holds two addresses, %s and %s", owner, other, addr)
		}
		p.byOwner[owner], p.byAddr[addr] = addr, owner
		if highest.Less(addr) {
			highest = addr
		}
	}
	p.fresh = highest.Next()
	// Below the highest address in use everything that is free was in use before the restart. How long ago is not known,
	// so these rest from now on and come after the untouched ones.
	for addr := p.router.Next(); addr.Less(highest); addr = addr.Next() {
		if _, taken := p.byAddr[addr]; !taken {
			p.resting = append(p.resting, rest{addr, now()})
		}
	}
	return p, nil
}

// Router returns the node's own address in its pod prefix: the first after the network address.
func Router(prefix netip.Prefix) netip.Addr { return prefix.Masked().Addr().Next() }

// usable says whether addr may belong to a pod of this node.
func (p *Pool) usable(addr netip.Addr) bool {
	return p.prefix.Contains(addr) && p.router.Less(addr) && p.prefix.Contains(addr.Next())
}

// Allocate returns owner's address, choosing one when it has none: never-used addresses first, then the one that is free
// for the longest time. Returns an error wrapping [ErrExhausted] when there is none.
func (p *Pool) Allocate(owner string) (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if addr, ok := p.byOwner[owner]; ok {
		return addr, nil
	}
	addr := p.fresh
	switch {
	case p.usable(addr):
		p.fresh = addr.Next()
	case len(p.resting) > 0 && p.now().Sub(p.resting[0].since) >= ReuseDelay:
		addr = p.resting[0].addr
		p.resting = p.resting[1:]
	default:
		return netip.Addr{}, fmt.Errorf("%w in %s: %d in use, %d freed less than %s ago",
			ErrExhausted, p.prefix, len(p.byAddr), len(p.resting), ReuseDelay)
	}
	p.byOwner[owner], p.byAddr[addr] = addr, owner
	return addr, nil
}

// Release gives owner's address back; an owner without one is no error.
func (p *Pool) Release(owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	addr, ok := p.byOwner[owner]
	if !ok {
		return
	}
	delete(p.byOwner, owner)
	delete(p.byAddr, addr)
	p.resting = append(p.resting, rest{addr, p.now()})
}

// InUse returns how many addresses have an owner.
func (p *Pool) InUse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.byAddr)
}
