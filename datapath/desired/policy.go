package desired

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Identity is what policies see of a pod. Pods that do not differ in it are one to them. All fields are in one canonical form,
// so that identities can be compared and be keys.
type Identity struct {
	Namespace string
	// Labels are key=value, sorted, with commas between.
	Labels string
	// Ports are the named ports of the containers as name/protocol=number, sorted, with commas between.
	Ports string
}

// String returns namespace{labels}.
func (i Identity) String() string { return i.Namespace + "{" + i.Labels + "}" }

// Direction is the way of a flow as its subject sees it.
type Direction uint8

// The directions.
const (
	Egress Direction = iota
	Ingress
)

// String returns the name that the Kubernetes API uses.
func (d Direction) String() string {
	if d == Egress {
		return "Egress"
	}
	return "Ingress"
}

// PolicySet names the policies that together isolate a pod in one direction. The zero value isolates nobody.
type PolicySet struct {
	Direction Direction
	Namespace string
	// Policies are the names of the policies, sorted, with commas between.
	Policies string
	// Ports are the subject's named ports that the policies refer to, as in Identity: two pods of the same policies differ if
	// a name means another port.
	Ports string
}

// Isolates says whether there is any policy in it.
func (s PolicySet) Isolates() bool { return s.Policies != "" }

// Names are the names of the policies.
func (s PolicySet) Names() []string { return strings.Split(s.Policies, ",") }

// String returns direction namespace/policies.
func (s PolicySet) String() string {
	return fmt.Sprintf("%s %s/%s", s.Direction, s.Namespace, s.Policies)
}

// PeerKind says which peers a row is for.
type PeerKind uint8

// The kinds of peers, from the narrowest.
const (
	// PodsOf are the pods of one identity.
	PodsOf PeerKind = iota
	// AnyPod are all pods of the cluster.
	AnyPod
	// Anybody includes what is outside.
	Anybody
)

// PolicyPeer is who a row of a policy set is for, but for address ranges.
type PolicyPeer struct {
	Kind     PeerKind
	Identity Identity // of PodsOf
}

// String returns the identity or the kind.
func (p PolicyPeer) String() string {
	switch p.Kind {
	case AnyPod:
		return "any pod"
	case Anybody:
		return "anybody"
	}
	return p.Identity.String()
}

// PolicyRows are what a policy set allows. A peer has the first row that there is for it in the order of PeerKind, and that of
// the longest prefix besides; so each row includes what the wider ones allow. They must not be changed.
type PolicyRows struct {
	Peers  map[PolicyPeer]Ports
	Blocks map[netip.Prefix]Ports
}

// PolicySubject is a pod of this node with the sets that isolate it.
type PolicySubject struct {
	Identity        Identity
	Egress, Ingress PolicySet
}

// PortRange are the ports of a protocol from First to Last.
type PortRange struct {
	Protocol    Protocol
	First, Last uint16
}

// Ports is a set of ports in canonical text, so that sets can be compared and be keys: as TCP:80,TCP:8000-8080,UDP:53. The zero
// value is the empty set.
type Ports string

// AllPorts are all ports of all protocols, and what has no ports.
const AllPorts Ports = "*"

// NewPorts returns the set of all ranges.
func NewPorts(ranges []PortRange) Ports {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b PortRange) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First))
	})
	var merged []PortRange
	for _, r := range ranges {
		if n := len(merged); n > 0 && merged[n-1].Protocol == r.Protocol && int(r.First) <= int(merged[n-1].Last)+1 {
			merged[n-1].Last = max(merged[n-1].Last, r.Last)
			continue
		}
		merged = append(merged, r)
	}
	parts := make([]string, len(merged))
	for i, r := range merged {
		parts[i] = r.String()
	}
	return Ports(strings.Join(parts, ","))
}

// String returns protocol:first-last.
func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprintf("%s:%d", r.Protocol, r.First)
	}
	return fmt.Sprintf("%s:%d-%d", r.Protocol, r.First, r.Last)
}

// Ranges are the ranges of the set, apart and ascending; none for AllPorts.
func (p Ports) Ranges() []PortRange {
	if p == "" || p == AllPorts {
		return nil
	}
	var ranges []PortRange
	for part := range strings.SplitSeq(string(p), ",") {
		name, numbers, _ := strings.Cut(part, ":")
		first, last, isRange := strings.Cut(numbers, "-")
		if !isRange {
			last = first
		}
		r := PortRange{Protocol: TCP, First: number(first), Last: number(last)}
		if name == UDP.String() {
			r.Protocol = UDP
		}
		ranges = append(ranges, r)
	}
	return ranges
}

// number reads what NewPorts wrote.
func number(s string) uint16 {
	n, _ := strconv.ParseUint(s, 10, 16)
	return uint16(n)
}

// Union is the set of the ports of both.
func (p Ports) Union(o Ports) Ports {
	switch {
	case p == AllPorts || o == "" || p == o:
		return p
	case o == AllPorts || p == "":
		return o
	}
	return NewPorts(append(p.Ranges(), o.Ranges()...))
}

// PortPrefix are the ports of a protocol that agree with First in their upper Bits.
type PortPrefix struct {
	Protocol Protocol
	First    uint16
	Bits     int
}

// Prefixes are the fewest prefixes that make up the set.
func (p Ports) Prefixes() []PortPrefix {
	var prefixes []PortPrefix
	for _, r := range p.Ranges() {
		for first := int(r.First); first <= int(r.Last); {
			size := 1 << 16
			for size > int(r.Last)-first+1 || first%size != 0 {
				size /= 2
			}
			bits := 16
			for s := size; s > 1; s /= 2 {
				bits--
			}
			prefixes = append(prefixes, PortPrefix{r.Protocol, uint16(first), bits})
			first += size
		}
	}
	return prefixes
}

// PortsOf is the set that the prefixes make up.
func PortsOf(prefixes []PortPrefix) Ports {
	ranges := make([]PortRange, len(prefixes))
	for i, p := range prefixes {
		ranges[i] = PortRange{p.Protocol, p.First, uint16(int(p.First) + 1<<(16-p.Bits) - 1)}
	}
	return NewPorts(ranges)
}
