package cluster

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skep-io/skep/dns/wire"
)

// Lengths of address records whose owner is a pointer.
const (
	recordA    = 16
	recordAAAA = 28
)

// protocols in the order of their bits in record.protocols.
var protocols = [...]string{"tcp", "udp", "sctp"}

// record is all that DNS says of one Service, in the form in which answers hold it. It is immutable: a change of the Service
// or of its endpoints makes a new one, so a reader sees one state of all names of a Service.
type record struct {
	namespace, name string
	// exists is false for what has no name: a headless Service without endpoints, an ExternalName that is no name.
	exists   bool
	headless bool
	// alias is an ExternalName's target in wire form.
	alias []byte
	// base are the Service's own addresses, hosts those of its endpoints one after the other.
	base, endpoints addresses
	// clusterIPs are kept for the reverse names.
	clusterIPs []netip.Addr
	// ports are those of a Service with cluster IPs; hosts have their own.
	ports []port
	// hosts are sorted by label.
	hosts []host
	// protocols has a bit for each protocol of a named port: an empty non-terminal.
	protocols uint8
}

// addresses are A and AAAA records ready to be copied into an answer: each owner is a pointer to the question's name.
type addresses struct{ v4, v6 []byte }

func (a addresses) of(rrtype uint16) (records []byte, stride int) {
	if rrtype == wire.TypeA {
		return a.v4, recordA
	}
	return a.v6, recordAAAA
}

type port struct {
	// name is empty for an unnamed port, which has no name of its own but counts for the bare Service.
	name     string
	protocol string
	number   uint16
}

// host is what endpoints of one host name have: a range of each of record.endpoints' lists, counted in records.
type host struct {
	label    string
	at4, at6 uint32
	n4, n6   uint16
	ports    []port
}

// of are the host's records within the Service's.
func (h host) of(all addresses) addresses {
	return addresses{v4: all.v4[h.at4*recordA : (h.at4+uint32(h.n4))*recordA], v6: all.v6[h.at6*recordAAAA : (h.at6+uint32(h.n6))*recordAAAA]}
}

func (a *addresses) add(addr netip.Addr, ttl uint32) {
	if addr.Is4() {
		v := addr.As4()
		a.v4 = append(appendRecord(a.v4, wire.TypeA, ttl, len(v)), v[:]...)
		return
	}
	v := addr.As16()
	a.v6 = append(appendRecord(a.v6, wire.TypeAAAA, ttl, len(v)), v[:]...)
}

func appendRecord(b []byte, rrtype uint16, ttl uint32, size int) []byte {
	b = binary.BigEndian.AppendUint16(b, wire.QuestionOwner)
	b = binary.BigEndian.AppendUint16(b, rrtype)
	b = binary.BigEndian.AppendUint16(b, wire.ClassIN)
	b = binary.BigEndian.AppendUint32(b, ttl)
	return binary.BigEndian.AppendUint16(b, uint16(size))
}

// newRecord translates a Service and its EndpointSlices.
func newRecord(svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, ttl uint32) *record {
	r := &record{namespace: svc.Namespace, name: svc.Name, exists: true}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		r.setAlias(svc.Spec.ExternalName)
		return r
	}
	r.headless = svc.Spec.ClusterIP == corev1.ClusterIPNone
	r.setHosts(readyEndpoints(svc, endpointSlices), ttl)
	if r.headless {
		r.exists = len(r.hosts) > 0
		r.base = r.distinctEndpoints()
	} else {
		r.clusterIPs = clusterIPs(svc)
		for _, ip := range r.clusterIPs {
			r.base.add(ip, ttl)
		}
		for _, p := range svc.Spec.Ports {
			r.ports = append(r.ports, newPort(p.Name, p.Protocol, p.Port))
		}
	}
	r.setProtocols(r.ports)
	for _, h := range r.hosts {
		if r.headless {
			r.setProtocols(h.ports)
		}
	}
	return r
}

// setAlias makes the record one of an ExternalName. An address is no name, so it cannot be an alias' target.
func (r *record) setAlias(target string) {
	_, err := netip.ParseAddr(target)
	name, nameErr := wire.AppendName(nil, target)
	if err == nil || nameErr != nil || len(name) == 1 {
		r.exists = false
		return
	}
	r.alias = name
}

func (r *record) setProtocols(ports []port) {
	for _, p := range ports {
		if i := slices.Index(protocols[:], p.protocol); i >= 0 && p.name != "" {
			r.protocols |= 1 << i
		}
	}
}

func newPort(name string, protocol corev1.Protocol, number int32) port {
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	return port{name: strings.ToLower(name), protocol: strings.ToLower(string(protocol)), number: uint16(number)}
}

// endpoint is one ready address of a Service.
type endpoint struct {
	host  string
	addr  netip.Addr
	ports []port
}

func readyEndpoints(svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) []endpoint {
	var out []endpoint
	for _, s := range endpointSlices {
		ports := slicePorts(s)
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if e.Conditions.Ready != nil && !*e.Conditions.Ready && !svc.Spec.PublishNotReadyAddresses {
				continue
			}
			for _, text := range e.Addresses {
				if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
					addr = addr.Unmap()
					out = append(out, endpoint{host: endpointHost(e, addr), addr: addr, ports: ports})
				}
			}
		}
	}
	return out
}

// setHosts sorts the endpoints into hosts. An endpoint that several slices have, one for each set of ports, is one.
func (r *record) setHosts(list []endpoint, ttl uint32) {
	slices.SortFunc(list, func(a, b endpoint) int {
		if c := strings.Compare(a.host, b.host); c != 0 {
			return c
		}
		return a.addr.Compare(b.addr)
	})
	for i, e := range list {
		again := i > 0 && list[i-1].host == e.host
		if !again {
			r.hosts = append(r.hosts, host{label: e.host, ports: e.ports,
				at4: uint32(len(r.endpoints.v4) / recordA), at6: uint32(len(r.endpoints.v6) / recordAAAA)})
		}
		h := &r.hosts[len(r.hosts)-1]
		if again && !slices.Equal(h.ports, e.ports) {
			h.ports = mergePorts(h.ports, e.ports)
		}
		if again && list[i-1].addr == e.addr {
			continue
		}
		r.endpoints.add(e.addr, ttl)
		if e.addr.Is4() {
			h.n4++
		} else {
			h.n6++
		}
	}
}

func mergePorts(a, b []port) []port {
	merged := slices.Clone(a)
	for _, p := range b {
		if !slices.Contains(merged, p) {
			merged = append(merged, p)
		}
	}
	return merged
}

// distinctEndpoints are the endpoints' records without repetition, which only an address of two host names causes.
func (r *record) distinctEndpoints() addresses {
	return addresses{v4: distinct(r.endpoints.v4, recordA), v6: distinct(r.endpoints.v6, recordAAAA)}
}

func distinct(records []byte, stride int) []byte {
	seen := make(map[string]bool, len(records)/stride)
	for at := 0; at < len(records); at += stride {
		seen[string(records[at:at+stride])] = true
	}
	if len(seen)*stride == len(records) {
		return records
	}
	var out []byte
	for at := 0; at < len(records); at += stride {
		if one := records[at : at+stride]; seen[string(one)] {
			out = append(out, one...)
			delete(seen, string(one))
		}
	}
	return out
}

func slicePorts(s *discoveryv1.EndpointSlice) []port {
	var out []port
	for _, p := range s.Ports {
		if p.Port == nil {
			continue
		}
		var name string
		if p.Name != nil {
			name = *p.Name
		}
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		out = append(out, newPort(name, protocol, *p.Port))
	}
	return out
}

// endpointHost is the label of an endpoint below its Service: its host name, else its address with dashes as CoreDNS writes it.
func endpointHost(e *discoveryv1.Endpoint, addr netip.Addr) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return strings.ToLower(*e.Hostname)
	}
	return dashed(addr)
}

var dashes = strings.NewReplacer(".", "-", ":", "-")

func dashed(addr netip.Addr) string {
	label := dashes.Replace(addr.String())
	if strings.HasSuffix(label, "-") {
		label += "0" // a label does not end in a dash
	}
	return label
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	var out []netip.Addr
	for _, s := range texts {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// host finds the endpoints of a label.
func (r *record) host(label []byte) (host, bool) {
	i, ok := slices.BinarySearchFunc(r.hosts, label, func(h host, want []byte) int { return bytes.Compare([]byte(h.label), want) })
	if !ok {
		return host{}, false
	}
	return r.hosts[i], true
}

// hasProtocol says whether the label, with or without its underscore, is a protocol of a named port.
func (r *record) hasProtocol(label []byte) bool {
	i := protocolOf(label)
	return i >= 0 && r.protocols&(1<<i) != 0
}

func protocolOf(label []byte) int {
	label = bytes.TrimPrefix(label, []byte("_"))
	for i, p := range protocols {
		if string(label) == p {
			return i
		}
	}
	return -1
}

// wanted is the port that a name asks for: protocol -1 takes them all.
type wanted struct {
	port     []byte
	protocol int
}

func (w wanted) takes(p port) bool {
	return w.protocol < 0 || (string(w.port) == p.name && protocols[w.protocol] == p.protocol)
}

func (r *record) hasPort(w wanted) bool {
	for _, p := range r.ports {
		if w.takes(p) {
			return true
		}
	}
	if r.headless {
		for _, h := range r.hosts {
			for _, p := range h.ports {
				if w.takes(p) {
					return true
				}
			}
		}
	}
	return false
}

// reverseAddrs are the addresses whose reverse names lead to the Service or its endpoints.
func (r *record) reverseAddrs() map[netip.Addr]bool {
	out := make(map[netip.Addr]bool, len(r.clusterIPs)+len(r.hosts))
	for _, ip := range r.clusterIPs {
		out[ip] = true
	}
	for at := 0; at < len(r.endpoints.v4); at += recordA {
		out[netip.AddrFrom4([4]byte(r.endpoints.v4[at+12:at+16]))] = true
	}
	for at := 0; at < len(r.endpoints.v6); at += recordAAAA {
		out[netip.AddrFrom16([16]byte(r.endpoints.v6[at+12:at+28]))] = true
	}
	return out
}

// hostOf is the label of the endpoint with the address.
func (r *record) hostOf(addr netip.Addr) (string, bool) {
	data := addr.AsSlice()
	for _, h := range r.hosts {
		own := h.of(r.endpoints)
		records, stride := own.v6, recordAAAA
		if addr.Is4() {
			records, stride = own.v4, recordA
		}
		for at := 0; at < len(records); at += stride {
			if bytes.Equal(records[at+12:at+stride], data) {
				return h.label, true
			}
		}
	}
	return "", false
}
