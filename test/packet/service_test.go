package packet_test

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
)

// The addresses of every test here.
var (
	router   = netip.MustParseAddr("10.244.0.1")
	podA     = netip.MustParseAddr("10.244.0.2")
	podB     = netip.MustParseAddr("10.244.0.3")
	noPod    = netip.MustParseAddr("10.244.0.99")
	nodeIP   = netip.MustParseAddr("192.0.2.1")
	clientIP = netip.MustParseAddr("192.0.2.2")
	vip      = netip.MustParseAddr("10.97.0.20")
	anyIP    = netip.MustParseAddr("0.0.0.0")
	loopback = netip.MustParseAddr("127.0.0.1")
)

var testConfig = load.Config{
	ClusterNetwork: netip.MustParsePrefix("10.244.0.0/16"),
	PodNetwork:     netip.MustParsePrefix("10.244.0.0/24"),
	ServiceNetwork: netip.MustParsePrefix("10.97.0.0/16"),
	Router:         router,

	ClusterNetwork6: sixPrefix(netip.MustParsePrefix("10.244.0.0/16")),
	PodNetwork6:     sixPrefix(netip.MustParsePrefix("10.244.0.0/24")),
	ServiceNetwork6: sixPrefix(netip.MustParsePrefix("10.97.0.0/16")),
	Router6:         six(router),
}

// service is one Service port as user space would write it.
type service struct {
	id        uint32
	proto     uint8
	frontends []netip.AddrPort
	backends  []netip.AddrPort
}

// six is the service's twin of IPv6.
func (s service) six() service {
	twins := func(list []netip.AddrPort) (twins []netip.AddrPort) {
		for _, a := range list {
			twins = append(twins, six2(a))
		}
		return twins
	}
	return service{s.id + 100, s.proto, twins(s.frontends), twins(s.backends)}
}

func (s service) write(o *load.Objects) error {
	for i, b := range s.backends {
		key := abi.SlotKey{Service: s.id, Index: uint32(i)}
		backend := abi.Backend{Addr: abi.AddrFrom(b.Addr()), Port: abi.Port(b.Port())}
		if err := o.Map(abi.MapSlot).Put(key, backend); err != nil {
			return err
		}
	}
	if err := o.Map(abi.MapService).Put(s.id, abi.Service{Backends: uint32(len(s.backends)), Revision: 1}); err != nil {
		return err
	}
	for _, f := range s.frontends {
		key := abi.FrontendKey{Addr: abi.AddrFrom(f.Addr()), Port: abi.Port(f.Port()), Proto: s.proto}
		if err := o.Map(abi.MapFrontend).Put(key, abi.Frontend{Service: s.id, Outside: s.id}); err != nil {
			return err
		}
	}
	return nil
}

func tcp(id uint32, frontends, backends []netip.AddrPort) service {
	return service{id, unix.IPPROTO_TCP, frontends, backends}
}

func udp(id uint32, frontends, backends []netip.AddrPort) service {
	return service{id, unix.IPPROTO_UDP, frontends, backends}
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func list(a ...netip.AddrPort) []netip.AddrPort { return a }
