package abi

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// Names are the names of drop reasons, places and kinds of events, by number.
type Names struct {
	Reasons []string // for example "no_backend"
	Places  []string // for example "from_pod"
	Kinds   []string // for example "new"
}

// ReadNames reads the names from the type information of the embedded
// objects, so that there is one list: the one in C.
func ReadNames() (Names, error) {
	spec, err := loadNetdev()
	if err != nil {
		return Names{}, err
	}
	reasons, err := enumNames(spec.Types, "drop_reason", "DROP_", Reasons)
	if err != nil {
		return Names{}, err
	}
	places, err := enumNames(spec.Types, "place", "PLACE_", Places)
	if err != nil {
		return Names{}, err
	}
	kinds, err := enumNames(spec.Types, "event_kind", "EVENT_", EventKinds)
	if err != nil {
		return Names{}, err
	}
	return Names{Reasons: reasons, Places: places, Kinds: kinds}, nil
}

// ReadDNSReasons reads the reasons to leave a query to the server, by number from [DNSReasons] on, for example "outside".
func ReadDNSReasons() ([]string, error) {
	spec, err := loadPod()
	if err != nil {
		return nil, err
	}
	names, err := enumNames(spec.Types, "dns_count", "DNS_", DNSCounts)
	if err != nil {
		return nil, err
	}
	return names[DNSReasons:], nil
}

// enumNames gives the first n values of an enum, in lower case and without
// their prefix.
func enumNames(types *btf.Spec, enum, prefix string, n int) ([]string, error) {
	var e *btf.Enum
	if err := types.TypeByName(enum, &e); err != nil {
		return nil, fmt.Errorf("enum %s: %w", enum, err)
	}
	names := make([]string, n)
	for _, v := range e.Values {
		if v.Value < uint64(n) {
			names[v.Value] = strings.ToLower(strings.TrimPrefix(v.Name, prefix))
		}
	}
	return names, nil
}
