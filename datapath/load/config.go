package load

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/netns"
)

// Features are what this kernel can do beyond the floor of 5.10.
type Features struct {
	SetRetval   bool   // bpf_set_retval in cgroup hooks (5.18)
	NetnsCookie uint64 // of the caller's network namespace; 0: not told (before 5.14)
}

// probe asks the kernel. A probe that cannot decide is an error.
func probe() (Features, error) {
	var f Features
	err := features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval)
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return f, fmt.Errorf("probe bpf_set_retval: %w", err)
	}
	f.SetRetval = err == nil
	f.NetnsCookie, err = netns.Cookie()
	return f, err
}

// network is struct network of bpf/lib/addr.h.
type network struct{ Addr, Mask abi.Addr }

// networkFrom gives the 16-byte form of a prefix; an invalid one gives the
// network that contains nothing.
func networkFrom(p netip.Prefix) network {
	if !p.IsValid() {
		return network{}
	}
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	n := network{Addr: abi.AddrFrom(p.Masked().Addr())}
	for i := range bits {
		n.Mask.Bytes[i/8] |= 0x80 >> (i % 8)
	}
	return n
}

// addrFrom gives the 16-byte form of an address; an invalid one is all zero.
func addrFrom(a netip.Addr) abi.Addr {
	if !a.IsValid() {
		return abi.Addr{}
	}
	return abi.AddrFrom(a)
}

// configure sets the variables that the programs are loaded with.
func configure(spec *ebpf.CollectionSpec, cfg Config, f Features) error {
	values := map[string]any{
		"cluster_network":  networkFrom(cfg.ClusterNetwork),
		"cluster_network6": networkFrom(cfg.ClusterNetwork6),
		"pod_network":      networkFrom(cfg.PodNetwork),
		"pod_network6":     networkFrom(cfg.PodNetwork6),
		"guest_network":    networkFrom(cfg.GuestNetwork),
		"service_network":  networkFrom(cfg.ServiceNetwork),
		"service_network6": networkFrom(cfg.ServiceNetwork6),
		"router_addr":      addrFrom(cfg.Router),
		"router_addr6":     addrFrom(cfg.Router6),
		"host_netns":       f.NetnsCookie,
		"has_set_retval":   f.SetRetval,
	}
	if cfg.NodePortMax != 0 {
		values["nodeport_min"] = cfg.NodePortMin
		values["nodeport_max"] = cfg.NodePortMax
	}
	if cfg.NATPortMax != 0 {
		values["nat_port_min"] = cfg.NATPortMin
		values["nat_port_max"] = cfg.NATPortMax
	}
	for name, value := range values {
		v, ok := spec.Variables[name]
		if !ok {
			return fmt.Errorf("variable %s: the programs have none of that name", name)
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("variable %s: %w", name, err)
		}
	}
	return nil
}
