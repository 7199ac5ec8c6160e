// Package abi is the shape of the BPF programs and maps as Go sees it: the
// types of map keys and values, generated from the objects' own type
// information, and the objects themselves, embedded. The C under bpf/ is the
// definition; bpf/README.md says what each map holds and who writes it.
//
// Ports in keys and values are in network byte order ([Port], [HostPort]);
// all other numbers are in the machine's.
package abi

import (
	"encoding/binary"
	"net/netip"

	"github.com/cilium/ebpf"
)

// The types of map keys and values, named as in C.
type (
	// Addr is an IP address in 16 bytes, IPv4 mapped. See [AddrFrom].
	Addr = netdevAddr
	// FrontendKey is what clients use to reach a Service port.
	FrontendKey = netdevFrontendKey
	// Frontend tells which service serves a FrontendKey.
	Frontend = netdevFrontend
	// Service is the row of one Service port, indexed by its id.
	Service = netdevService
	// SlotKey is the place of a backend in a service.
	SlotKey = netdevSlotKey
	// Backend is an address and port that serves.
	Backend = netdevBackend
	// Peer is a connected socket; its key is the socket's cookie.
	Peer = sockPeer
	// AffinityKey is a client of a service with affinity.
	AffinityKey = netdevAffinityKey
	// Affinity is the backend that such a client has.
	Affinity = netdevAffinity
	// LoadKey is a backend whose connections are counted.
	LoadKey = netdevLoadKey
	// RingBlock are some places of a ring.
	RingBlock = netdevRingBlock
	// SourceRangeKey is a source that may use a service.
	SourceRangeKey = netdevSourceRangeKey
	// FrontendFlag are the bits of Frontend.Flags.
	FrontendFlag = netdevFrontendFlag
	// ServiceFlag are the bits of Service.Flags.
	ServiceFlag = netdevServiceFlag
	// Endpoint is a pod of this node; its key is the pod's Addr.
	Endpoint = netdevEndpoint
	// Node is a node's address; its key is the Addr.
	Node = netdevNode
	// NodeFlag are the bits of Node.Flags.
	NodeFlag = netdevNodeFlag
	// Device is a device that leads outside; its key is the ifindex.
	Device = netdevDevice
	// TunnelKey is a range of pod addresses of another node.
	TunnelKey = netdevTunnelKey
	// Tunnel is the node that has it.
	Tunnel = netdevTunnel
	// Control is the single row of the control map.
	Control = netdevControl
	// ConntrackKey names the two ends of a flow, in ascending order.
	ConntrackKey = netdevConntrackKey
	// Conntrack is one flow, or one side of a translated flow.
	Conntrack = netdevConntrack
	// ConntrackFlag are the bits of Conntrack.Flags.
	ConntrackFlag = netdevConntrackFlag
	// PolicyKey names a peer of a policy set.
	PolicyKey = netdevPolicyKey
	// PolicyPeer is the identity of a pod, or one of the peers below.
	PolicyPeer = netdevPolicyPeer
	// PolicyPorts is the id of a set of ports, or one of those below.
	PolicyPorts = netdevPolicyPorts
	// CIDRKey names a prefix of addresses for a policy set.
	CIDRKey = netdevCidrKey
	// PortKey names a prefix of ports in a set of ports.
	PortKey = netdevPortKey
	// DNSKey is a name in wire form, lower case, padded with zeros.
	DNSKey = podDnsKey
	// DNSName is what a name has.
	DNSName = podDnsName
	// DNSNameFlag are the bits of DNSName.Flags.
	DNSNameFlag = podDnsNameFlag
	// DNSZone is the single row of the zone map.
	DNSZone = podDnsZone
	// DNSZoneFlag are the bits of DNSZone.Flags.
	DNSZoneFlag = podDnsZoneFlag
	// DNSCount is an index of the lookup map.
	DNSCount = podDnsCount
	// DropCounter counts what was refused for one reason at one place.
	DropCounter = netdevDropCounter
	// DropReason is why a packet or connect was refused.
	DropReason = netdevDropReason
	// Place is where a verdict fell.
	Place = netdevPlace
	// Event is what happened to a flow.
	Event = netdevEvent
	// EventKind is the kind of an Event.
	EventKind = netdevEventKind
	// Traffic is what a service has carried, as one processor has counted.
	Traffic = netdevTraffic
	// Watch is the single row of the watch map.
	Watch = netdevWatch
)

// Bits of Node.Flags.
const (
	// NodeLocal marks an address that this node's own stack answers.
	NodeLocal = netdevNodeFlagNODE_LOCAL
)

// Bits of Frontend.Flags and Service.Flags; bpf/lib/service.h says what each means.
const (
	FrontendSourceRanges = netdevFrontendFlagFRONTEND_SOURCE_RANGES
	ServiceSilent        = netdevServiceFlagSERVICE_SILENT
	ServiceLeast         = netdevServiceFlagSERVICE_LEAST
	ServiceDSR           = netdevServiceFlagSERVICE_DSR
)

// Bits of DNSZone.Flags and DNSName.Flags; bpf/lib/dns.h says what each means.
const (
	DNSAnswer        = podDnsZoneFlagDNS_ANSWER
	DNSComplete      = podDnsZoneFlagDNS_COMPLETE
	DNSServer        = podDnsNameFlagDNS_SERVER
	DNSAddressesOnly = podDnsNameFlagDNS_ADDRESSES_ONLY
	DNSHasSRV        = podDnsNameFlagDNS_HAS_SRV
	DNSApex          = podDnsNameFlagDNS_APEX
	DNSServices      = podDnsNameFlagDNS_SERVICES
	DNSPods          = podDnsNameFlagDNS_PODS
)

// Kinds of answers, and what follows them: reasons to leave a query to the server. The counters of answers are those of each
// kind, type and family: see [DNSIndex].
const (
	DNSFound   = podDnsCountDNS_FOUND
	DNSNoData  = podDnsCountDNS_NODATA
	DNSAbsent  = podDnsCountDNS_ABSENT
	DNSKinds   = int(podDnsCountDNS_KINDS)
	DNSReasons = podDnsCountDNS_FORM
	DNSCounts  = int(podDnsCountDNS_COUNTS)
	// DNSTypes are counted apart: A, AAAA and others; each of DNSFamilies.
	DNSTypes, DNSFamilies = 3, 2
)

// DNSAddresses is how many addresses of a family a name's row takes.
const DNSAddresses = len(DNSName{}.V4)

// DNSIndex is the index of the counter of answers of a kind for questions of a type (of DNSTypes) over a family (of DNSFamilies).
func DNSIndex(kind DNSCount, rrtype, family int) uint32 {
	return uint32((int(kind)*DNSTypes+rrtype)*DNSFamilies + family)
}

// Bits of Conntrack.Flags; bpf/lib/conntrack.h says what each means.
const (
	CTFromHigh   = netdevConntrackFlagCT_FROM_HIGH
	CTRewriteSrc = netdevConntrackFlagCT_REWRITE_SRC
	CTRewriteDst = netdevConntrackFlagCT_REWRITE_DST
	CTReplySide  = netdevConntrackFlagCT_REPLY_SIDE
	CTToHost     = netdevConntrackFlagCT_TO_HOST
	CTFromHost   = netdevConntrackFlagCT_FROM_HOST
	CTReplied    = netdevConntrackFlagCT_REPLIED
	CTSyn        = netdevConntrackFlagCT_SYN
	CTFinFrom    = netdevConntrackFlagCT_FIN_FROM
	CTFinTo      = netdevConntrackFlagCT_FIN_TO
	CTRst        = netdevConntrackFlagCT_RST
	CTDirect     = netdevConntrackFlagCT_DIRECT
)

// PlaceSock is where sockets are translated, before there is a packet.
const PlaceSock = netdevPlacePLACE_SOCK

// Values of Event.Kind; bpf/lib/event.h says what each means.
const (
	EventNew    = netdevEventKindEVENT_NEW
	EventEnd    = netdevEventKindEVENT_END
	EventPacket = netdevEventKindEVENT_PACKET
	EventDrop   = netdevEventKindEVENT_DROP
)

// Peers that are not pods, and the first identity that is one.
const (
	PeerAny   = netdevPolicyPeerPEER_ANY
	PeerHost  = netdevPolicyPeerPEER_HOST
	PeerDNS   = netdevPolicyPeerPEER_DNS
	PeerPod   = netdevPolicyPeerPEER_POD
	PeerCount = netdevPolicyPeerPEER_COUNT
)

// Sets of ports that are not in the map of ports.
const (
	PortsNone = netdevPolicyPortsPORTS_NONE
	PortsAll  = netdevPolicyPortsPORTS_ALL
)

// EventKinds is how many kinds of events there are; they count from 0.
const EventKinds = int(netdevEventKindEVENT_KIND_COUNT)

// Reasons is how many drop reasons there are; they count from 0.
const Reasons = int(netdevDropReasonDROP_REASON_COUNT)

// Places is how many places there are; they count from 0.
const Places = int(netdevPlacePLACE_COUNT)

// Names of maps, as in C and as pinned.
const (
	MapFrontend    = netdevMapFrontend
	MapService     = netdevMapService
	MapSlot        = netdevMapSlot
	MapEndpoint    = netdevMapEndpoint
	MapNode        = netdevMapNode
	MapDevice      = netdevMapDevice
	MapControl     = netdevMapControl
	MapConntrack   = netdevMapConntrack
	MapDrop        = netdevMapDrop
	MapScratch     = netdevMapScratch
	MapHop         = xdpMapHop
	MapNetns       = sockMapNetns
	MapPeer        = sockMapPeer
	MapAffinity    = netdevMapAffinity
	MapFragment    = netdevMapFragment
	MapLoad        = netdevMapLoad
	MapRing        = netdevMapRing
	MapSourceRange = netdevMapSourceRange
	MapDatagram    = sockMapDatagram
	MapIdentity    = netdevMapIdentity
	MapPolicy      = netdevMapPolicy
	MapCIDR        = netdevMapCidr
	MapPorts       = netdevMapPorts
	MapTunnel      = netdevMapTunnel
	MapEvents      = netdevMapEvents
	MapWatch       = netdevMapWatch
	MapZone        = podMapZone
	MapRecord      = podMapRecord
	MapLookup      = podMapLookup
	MapDNSScratch  = podMapDnsScratch
	MapTraffic     = netdevMapTraffic
)

// Names of programs, as in C.
const (
	ProgFromPod      = podProgFromPod
	ProgToPod        = podProgToPod
	ProgFromNet      = netdevProgFromNet
	ProgToNet        = netdevProgToNet
	ProgFromOverlay  = overlayProgFromOverlay
	ProgToOverlay    = overlayProgToOverlay
	ProgFront        = xdpProgFront
	ProgConnect4     = sockProgConnect4
	ProgSendmsg4     = sockProgSendmsg4
	ProgRecvmsg4     = sockProgRecvmsg4
	ProgGetpeername4 = sockProgGetpeername4
	ProgSockRelease  = sockProgSockRelease
	ProgConnect6     = sockProgConnect6
	ProgSendmsg6     = sockProgSendmsg6
	ProgRecvmsg6     = sockProgRecvmsg6
	ProgGetpeername6 = sockProgGetpeername6
	ProgTCPState     = sockProgTcpState
)

// Objects are the programs of each object file with their maps and variables.
type Objects struct {
	Sock, Pod, Netdev, Overlay, XDP *ebpf.CollectionSpec
}

// All lists them.
func (o Objects) All() []*ebpf.CollectionSpec {
	return []*ebpf.CollectionSpec{o.Sock, o.Pod, o.Netdev, o.Overlay, o.XDP}
}

// Specs returns the objects, freshly decoded: the caller may change them.
func Specs() (Objects, error) {
	var o Objects
	for _, file := range []struct {
		spec *(*ebpf.CollectionSpec)
		load func() (*ebpf.CollectionSpec, error)
	}{{&o.Sock, loadSock}, {&o.Pod, loadPod}, {&o.Netdev, loadNetdev}, {&o.Overlay, loadOverlay}, {&o.XDP, loadXdp}} {
		spec, err := file.load()
		if err != nil {
			return Objects{}, err
		}
		*file.spec = spec
	}
	return o, nil
}

// AddrFrom gives the 16-byte form of a. The zero netip.Addr gives "::".
func AddrFrom(a netip.Addr) Addr {
	if !a.IsValid() {
		return Addr{}
	}
	return Addr{Bytes: a.As16()}
}

// Netip gives the address of the 16-byte form; IPv4 is unmapped.
func (a netdevAddr) Netip() netip.Addr {
	return netip.AddrFrom16(a.Bytes).Unmap()
}

// String formats the address as netip does.
func (a netdevAddr) String() string { return a.Netip().String() }

// Port gives the network byte order of port, as keys and values hold it.
func Port(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

// HostPort is the reverse of [Port].
func HostPort(port uint16) uint16 { return Port(port) }

// DropIndex is the index of a counter in the drop map.
func DropIndex(reason DropReason, place Place) uint32 {
	return uint32(reason)*uint32(Places) + uint32(place)
}
