package podnet

import (
	"net/netip"

	"github.com/skep-io/skep/datapath/ipam"
)

// families are the node's router addresses, at most one of each family. The zero address says that there is none.
type families struct{ v4, v6 netip.Addr }

// routersOf returns the router addresses of ranges of pod addresses.
func routersOf(podCIDRs []netip.Prefix) families {
	var f families
	for _, p := range podCIDRs {
		if router := ipam.Router(p); router.Is4() {
			f.v4 = router
		} else {
			f.v6 = router
		}
	}
	return f
}

// of returns the one of a's family.
func (f families) of(a netip.Addr) netip.Addr {
	if a.Is4() {
		return f.v4
	}
	return f.v6
}
