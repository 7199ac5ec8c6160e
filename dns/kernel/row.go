package kernel

import (
	"encoding/binary"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/dns/cluster"
	"github.com/skep-io/skep/dns/wire"
)

// kinds are the names below the zone's that have one for each namespace.
var kinds = []string{"svc", "pod"}

// fixed are the names that every zone has.
var fixed = []struct {
	labels []string
	flags  abi.DNSNameFlag
}{
	{nil, abi.DNSApex | abi.DNSAddressesOnly},
	{[]string{"svc"}, abi.DNSServices},
	{[]string{"pod"}, abi.DNSPods},
	{[]string{"dns"}, 0},
	{[]string{"ns", "dns"}, abi.DNSServer},
	{[]string{"dns-version"}, abi.DNSAddressesOnly},
}

// key is that of a name of the zone, false if it is too long to have one.
func (a *Answers) key(labels ...string) (abi.DNSKey, bool) {
	var name []byte
	for _, l := range labels {
		name = wire.AppendLabel(name, l)
	}
	return keyOf(append(name, a.origin...))
}

func keyOf(name []byte) (key abi.DNSKey, ok bool) {
	return key, copy(key.Name[:], name) == len(name)
}

// Where a record's address is: behind a pointer, type, class, TTL and length.
const (
	header  = 12
	recordA = header + 4
	record6 = header + 16
)

// rowOf is what the kernel needs to know of a name.
func rowOf(n cluster.Name) abi.DNSName {
	var row abi.DNSName
	n4, n6 := len(n.V4)/recordA, len(n.V6)/record6
	if n.Alias || n4 > abi.DNSAddresses || n6 > abi.DNSAddresses {
		row.Flags = uint16(abi.DNSServer)
		return row
	}
	if n.Service {
		row.Flags = uint16(abi.DNSHasSRV)
	}
	row.N4, row.N6 = uint8(n4), uint8(n6)
	for i := range n4 {
		row.V4[i] = binary.NativeEndian.Uint32(n.V4[i*recordA+header:])
	}
	for i := range n6 {
		for w := range row.V6[i] {
			row.V6[i][w] = binary.NativeEndian.Uint32(n.V6[i*record6+header+4*w:])
		}
	}
	return row
}
