package node

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"sync"
)

// errExhausted is returned when every node range of the cluster's pod range is taken.
var errExhausted = errors.New("no free pod range is left")

// ranges hands out equal parts of the cluster's pod range, the lowest free one first. It is safe for concurrent use. It has no memory
// of its own: what is taken is learnt from the Node objects.
type ranges struct {
	cluster netip.Prefix
	bits    int // prefix length of a node's range
	mu      sync.Mutex
	owner   map[netip.Prefix]string
	byNode  map[string]netip.Prefix
}

func newRanges(cluster netip.Prefix, bits int) (*ranges, error) {
	if !cluster.IsValid() || bits < cluster.Bits() || bits > cluster.Addr().BitLen() {
		return nil, fmt.Errorf("pod range %s cannot be cut into ranges of /%d", cluster, bits)
	}
	return &ranges{cluster: cluster.Masked(), bits: bits, owner: map[netip.Prefix]string{}, byNode: map[string]netip.Prefix{}}, nil
}

// hold notes that the node has the range; it returns the name of another node that has it already, or "".
func (r *ranges) hold(node string, prefix netip.Prefix) (other string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if holder, taken := r.owner[prefix]; taken && holder != node {
		return holder
	}
	if had, ok := r.byNode[node]; ok && had != prefix {
		delete(r.owner, had)
	}
	r.owner[prefix], r.byNode[node] = node, prefix
	return ""
}

// allocate returns the node's range, the same one for as long as it is not released.
func (r *ranges) allocate(node string) (netip.Prefix, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if prefix, ok := r.byNode[node]; ok {
		return prefix, nil
	}
	for prefix := netip.PrefixFrom(r.cluster.Addr(), r.bits); prefix.IsValid() && r.cluster.Contains(prefix.Addr()); prefix = following(prefix) {
		if _, taken := r.owner[prefix]; !taken {
			r.owner[prefix], r.byNode[node] = node, prefix
			return prefix, nil
		}
	}
	return netip.Prefix{}, errExhausted
}

// release frees the node's range.
func (r *ranges) release(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if prefix, ok := r.byNode[node]; ok {
		delete(r.owner, prefix)
		delete(r.byNode, node)
	}
}

// following is the next range of the same size; it is invalid after the last one of the family.
func following(prefix netip.Prefix) netip.Prefix {
	width := prefix.Addr().BitLen()
	step := new(big.Int).Lsh(big.NewInt(1), uint(width-prefix.Bits()))
	sum := step.Add(step, new(big.Int).SetBytes(prefix.Addr().AsSlice()))
	if sum.BitLen() > width {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(sum.FillBytes(make([]byte, width/8)))
	return netip.PrefixFrom(addr, prefix.Bits())
}
