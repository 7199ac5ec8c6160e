package bpfmap

import (
	"net/netip"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/desired"
)

// Peer is a connected socket whose peer was translated.
type Peer struct {
	// Cookie is the socket's, NetNS that of its network namespace.
	Cookie, NetNS uint64
	// Service is the id of the service that it asked for.
	Service uint32
	// Backend is what it was given.
	Backend desired.Backend
}

// EachPeer calls fn for every connected socket whose peer was translated, until it returns false.
func (m *Maps) EachPeer(fn func(Peer) bool) error {
	return m.peer.each(func(cookie uint64, p abi.Peer) bool {
		return fn(Peer{
			Cookie: cookie, NetNS: p.Netns, Service: p.Service,
			Backend: desired.Backend{
				Address:  netip.AddrPortFrom(abi.Addr(p.Given).Netip(), abi.HostPort(p.GivenPort)),
				Protocol: desired.Protocol(p.Proto),
			},
		})
	})
}
