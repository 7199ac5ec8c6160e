// Package desired holds the tables of kernel state that this node should have, in the user's words: addresses, ports and
// names, no ids, no byte order. Rows are immutable values: translate makes them, reconcile compares them with what the kernel
// has, and whoever holds one may keep it.
package desired

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Protocol is a transport protocol by its IANA number.
type Protocol uint8

// The protocols that Services carry.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the name that the Kubernetes API uses.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// PortName names one port of one Service. Every frontend of that port, on whichever address, leads to the same backends.
type PortName struct {
	// Service is the name of the Service, or of whatever else has frontends: see [PodName].
	Namespace, Service string
	// Port is the name of the port in the Service's spec, empty for a single unnamed one.
	Port string
	// V6 is the family of the frontends and backends.
	V6 bool
	// Local tells the backends on this node alone, which a traffic policy may ask for, from all.
	Local bool
}

// PodName stands in the place of a Service's name for the host ports of a pod. No Service can have it.
func PodName(pod string) string { return podPrefix + pod }

// CutPodName returns the name of the pod that PodName was given; false: the name is a Service's.
func CutPodName(name string) (pod string, ok bool) { return strings.CutPrefix(name, podPrefix) }

const podPrefix = "pod/"

// String returns namespace/service, with :port appended for a named port, and what else it needs to be told from others.
func (n PortName) String() string {
	s := n.Namespace + "/" + n.Service
	if n.Port != "" {
		s += ":" + n.Port
	}
	if n.V6 {
		s += " IPv6"
	}
	if n.Local {
		s += " local"
	}
	return s
}

// Compare orders names by namespace, Service and port.
func (n PortName) Compare(o PortName) int {
	if c := strings.Compare(n.Namespace, o.Namespace); c != 0 {
		return c
	}
	if c := strings.Compare(n.Service, o.Service); c != 0 {
		return c
	}
	if c := strings.Compare(n.Port, o.Port); c != 0 {
		return c
	}
	if c := compareBool(n.V6, o.V6); c != 0 {
		return c
	}
	return compareBool(n.Local, o.Local)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Kind says which field of a Service a frontend came from.
type Kind uint8

// The kinds of frontends.
const (
	ClusterIP Kind = iota + 1
	NodePort
	ExternalIP
	LoadBalancer
	// HostPort is of a pod, not of a Service.
	HostPort
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case ClusterIP:
		return "ClusterIP"
	case NodePort:
		return "NodePort"
	case ExternalIP:
		return "ExternalIP"
	case LoadBalancer:
		return "LoadBalancer"
	case HostPort:
		return "HostPort"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// AnyLocal and AnyLocal6 stand, as the address of a frontend, for every address of this node and for 127.0.0.1 or ::1: node ports answer at all of
// them, and a node that gains an address need not touch its Services.
var (
	AnyLocal  = netip.AddrFrom4([4]byte{})
	AnyLocal6 = netip.IPv6Unspecified()
)

// Frontend is an address and port at which a Service answers.
type Frontend struct {
	Address  netip.AddrPort
	Protocol Protocol
	Kind     Kind
	// Local and LocalOutside say that clients in the cluster and those outside get the backends of the local row of that
	// name, see [PortName].
	Local, LocalOutside bool
	// Restricted says that only the row's SourceRanges may use it.
	Restricted bool
}

// Compare orders frontends by address, port and protocol, which together are unique on a node.
func (f Frontend) Compare(o Frontend) int {
	if c := f.Address.Compare(o.Address); c != 0 {
		return c
	}
	return int(f.Protocol) - int(o.Protocol)
}

// Backend is one process that serves a Service.
type Backend struct {
	Address  netip.AddrPort
	Protocol Protocol
}

// Compare orders backends by address, port and protocol.
func (b Backend) Compare(o Backend) int {
	if c := b.Address.Compare(o.Address); c != 0 {
		return c
	}
	return int(b.Protocol) - int(o.Protocol)
}

// Service is one port of a Service with all that the kernel must know of it. Both slices are sorted and free of duplicates,
// and must not be changed. A Service without backends is still wanted: its frontends refuse connections instead of letting
// the packets wander off.
type Service struct {
	Name      PortName
	Frontends []Frontend
	Backends  []Backend
	// Affinity is how many seconds a client stays with its backend after the last choice; 0: each choice is new.
	Affinity uint32
	// Silent drops packets when there is no backend, instead of refusing: other nodes have some.
	Silent bool
	// Ring gives clients outside the same backend on every node.
	Ring bool
	// Least has clients in the cluster choose the backend with fewer connections from this node, of two at random.
	Least bool
	// DSR has the node of the backend answer clients outside itself, where it shares a link with the node that they asked.
	DSR bool
	// SourceRanges are who may use the restricted frontends, sorted.
	SourceRanges []netip.Prefix
}

// Equal says whether both rows ask for the same kernel state.
func (s Service) Equal(o Service) bool {
	return s.Name == o.Name && slices.Equal(s.Frontends, o.Frontends) && slices.Equal(s.Backends, o.Backends) &&
		s.Affinity == o.Affinity && s.Silent == o.Silent && s.Ring == o.Ring && s.Least == o.Least && s.DSR == o.DSR && slices.Equal(s.SourceRanges, o.SourceRanges)
}

// Endpoint is a pod of this node as the programs see it.
type Endpoint struct {
	Address netip.Addr
	// Pod is the UID of the pod.
	Pod string
	// IfIndex is the device index of the host side of the pod's veth pair.
	IfIndex int
	// PodMAC is the address of the device inside the pod, HostMAC that of the host side.
	PodMAC, HostMAC net.HardwareAddr
	// NetNS is the cookie of the pod's network namespace; 0 when the kernel does not tell.
	NetNS uint64
}

// Node is what is known of one address of a node.
type Node struct {
	// Local says that the address is this node's: its own stack answers there, and node ports with it.
	Local bool
}

// Peer is a range of pod addresses that another node has.
type Peer struct {
	Pods netip.Prefix
	// Node is the address by which that node is reached.
	Node netip.Addr
}

// Route is the way to a range of pod addresses of another node.
type Route struct {
	Device int
	// Gateway is the next hop; the zero address: the device leads there itself.
	Gateway netip.Addr
	// OnLink says that the device leads to the gateway whatever its addresses say.
	OnLink bool
	// Source is what this node's own processes send from; the zero address: the device's.
	Source netip.Addr
	// MTU is the largest packet that gets there; 0: that of the device.
	MTU int
}

// Tunnel is the way to a range of pod addresses through the tunnel.
type Tunnel struct {
	// Node is the address at which the other node takes packets out of the tunnel.
	Node netip.Addr
	// MTU is the largest packet that gets there, without what the tunnel adds.
	MTU int
}

// TunnelMode says which nodes are reached through the tunnel.
type TunnelMode string

// The modes: Auto are those that share no link with this node.
const (
	TunnelAuto   TunnelMode = "auto"
	TunnelAlways TunnelMode = "always"
	TunnelNever  TunnelMode = "never"
)

// Device is a device of this node that leads outside.
type Device struct {
	// Masquerade and Masquerade6 are the sources of what pods send out by the device in IPv4 and in IPv6. The zero address: it has
	// none of that family, and nothing goes out.
	Masquerade, Masquerade6 netip.Addr
}

// XDPMode says on which devices of a node packets are seen by XDP, as soon as the driver has them.
type XDPMode string

// The modes of XDP. All of them have the same result.
const (
	// XDPAuto is on devices that are hardware, or stand for it in a virtual machine. On others, such as veths, XDP costs more than
	// it gains: the kernel no longer passes large segments through them in one piece.
	XDPAuto XDPMode = "auto"
	// XDPOn is on every device whose driver runs XDP programs.
	XDPOn XDPMode = "on"
	// XDPOff is on none.
	XDPOff XDPMode = "off"
)
