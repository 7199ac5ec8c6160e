// Package cluster answers for the cluster's own zone, by the Kubernetes DNS-Based Service Discovery specification 1.1.0
// (https://github.com/kubernetes/dns/blob/master/docs/specification.md) and what clients rely on beyond it: an answer is
// computed from the watched Services, EndpointSlices and Namespaces at the moment of the question, so there is nothing that
// could be stale.
package cluster

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
)

// TTL is how long clients may keep an answer, in seconds.
const TTL = 5

// podLabel and serviceLabel are the two subtrees of the zone.
const (
	podLabel     = "pod"
	serviceLabel = "svc"
)

// Zone answers questions below one origin. It is safe for concurrent use.
type Zone struct {
	origin  string
	objects *Objects
}

// NewZone returns the zone of the cluster domain, for example "cluster.local".
func NewZone(domain string, objects *Objects) *Zone {
	return &Zone{origin: strings.ToLower(dns.Fqdn(domain)), objects: objects}
}

// Result is the answer to one question.
type Result struct {
	// Rcode is the response code; NOERROR without Answer is NODATA.
	Rcode int
	// Answer and Extra go into the sections of the same names.
	Answer, Extra []dns.RR
	// Alias is set where Answer ends in a CNAME out of the zone whose target the client wants resolved too.
	Alias string
}

// Negative says whether the response needs the zone's SOA.
func (r Result) Negative() bool { return len(r.Answer) == 0 }

var (
	noData      = Result{Rcode: dns.RcodeSuccess}
	noSuchName  = Result{Rcode: dns.RcodeNameError}
	unsynced    = Result{Rcode: dns.RcodeServerFailure}
	versionText = "1.1.0"
)

// question is one question with what the resolving functions pass around.
type question struct {
	// name is the owner as the client spelled it, which answers repeat.
	name  string
	qtype uint16
	// origin is the zone as the client spelled it.
	origin string
}

func (q question) header(rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: q.name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: TTL}
}

// Resolve answers a question of class IN. ours is false for a name that this zone has no say in: another domain, or the
// reverse name of an address that no Service or endpoint has.
func (z *Zone) Resolve(q dns.Question) (result Result, ours bool) {
	name := strings.ToLower(q.Name)
	if addr, ok := reverseAddr(name); ok {
		return z.reverse(q.Name, q.Qtype, addr)
	}
	if name != z.origin && !strings.HasSuffix(name, "."+z.origin) {
		return Result{}, false
	}
	if !z.objects.Synced() {
		// Not NXDOMAIN: clients would remember that.
		return unsynced, true
	}
	in := question{name: q.Name, qtype: q.Qtype, origin: q.Name[len(q.Name)-len(z.origin):]}
	labels := dns.SplitDomainName(strings.TrimSuffix(name, z.origin))
	return z.forward(in, labels), true
}

// forward resolves the labels left of the origin.
func (z *Zone) forward(q question, labels []string) Result {
	n := len(labels)
	switch {
	case n == 0:
		return z.apex(q)
	case n == 1 && labels[0] == "dns-version":
		if q.qtype != dns.TypeTXT && q.qtype != dns.TypeANY {
			return noData
		}
		return Result{Answer: []dns.RR{&dns.TXT{Hdr: q.header(dns.TypeTXT), Txt: []string{versionText}}}}
	case labels[n-1] != serviceLabel && labels[n-1] != podLabel:
		return noSuchName
	case n == 1:
		return noData
	case !z.objects.namespaceExists(labels[n-2]):
		return noSuchName
	case n == 2:
		return noData
	case labels[n-1] == podLabel:
		return podRecord(q, labels[:n-2])
	}
	svc := z.objects.service(labels[n-2], labels[n-3])
	if svc == nil {
		return noSuchName
	}
	return z.service(q, svc, labels[:n-3])
}

func (z *Zone) apex(q question) Result {
	switch q.qtype {
	case dns.TypeSOA:
		return Result{Answer: []dns.RR{z.SOA(q.origin)}}
	case dns.TypeNS:
		return Result{Answer: []dns.RR{&dns.NS{Hdr: q.header(dns.TypeNS), Ns: "kube-dns.kube-system.svc." + q.origin}}}
	}
	return noData
}

// SOA is the zone's start of authority under the given spelling of its origin. Its serial is the time of the last change.
func (z *Zone) SOA(origin string) *dns.SOA {
	if origin == "" {
		origin = z.origin
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: origin, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: TTL},
		Ns:  "ns.dns." + origin, Mbox: "hostmaster." + origin,
		Serial: z.objects.serial(), Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: TTL,
	}
}

// Origin is the zone's name, lower case, with the final dot.
func (z *Zone) Origin() string { return z.origin }

// podRecord answers a-b-c-d.<namespace>.pod.<zone>, as CoreDNS's "insecure" mode does: the namespace must exist, the pod
// need not.
func podRecord(q question, labels []string) Result {
	if len(labels) != 1 {
		return noSuchName
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(labels[0], "-", "."))
	if err != nil {
		addr, err = netip.ParseAddr(strings.ReplaceAll(labels[0], "-", ":"))
	}
	if err != nil {
		return noSuchName
	}
	return Result{Answer: addressRecords(q, []netip.Addr{addr})}
}

// addressRecords returns the A or AAAA records that q asks for.
func addressRecords(q question, addrs []netip.Addr) []dns.RR {
	var out []dns.RR
	for _, a := range addrs {
		if rr := addressRecord(q, a); rr != nil && (q.qtype == rr.Header().Rrtype || q.qtype == dns.TypeANY) {
			out = append(out, rr)
		}
	}
	return out
}

func addressRecord(q question, addr netip.Addr) dns.RR {
	switch {
	case addr.Is4():
		return &dns.A{Hdr: q.header(dns.TypeA), A: addr.AsSlice()}
	case addr.Is6():
		return &dns.AAAA{Hdr: q.header(dns.TypeAAAA), AAAA: addr.AsSlice()}
	}
	return nil
}

// serviceName is the name of a Service under the client's spelling of the origin.
func serviceName(svc *corev1.Service, origin string) string {
	return svc.Name + "." + svc.Namespace + ".svc." + origin
}
