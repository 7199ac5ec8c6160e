package cluster

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
)

// service resolves a name at or below svc; labels are those left of the Service's own name.
func (z *Zone) service(q question, svc *corev1.Service, labels []string) Result {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return externalName(q, svc, labels)
	}
	headless := svc.Spec.ClusterIP == corev1.ClusterIPNone
	endpoints := z.objects.endpoints(svc)
	if headless && len(endpoints) == 0 {
		// The specification gives a headless Service no name of its own: it exists as far as it has endpoints.
		return noSuchName
	}
	switch len(labels) {
	case 0:
		if q.qtype == dns.TypeSRV {
			return z.srv(q, svc, endpoints, "", "")
		}
		if headless {
			return Result{Answer: addressRecords(q, endpointAddrs(endpoints, ""))}
		}
		return Result{Answer: addressRecords(q, clusterIPs(svc))}
	case 1:
		if hasProtocol(svc, labels[0]) {
			return noData // an empty non-terminal: only names below it have records
		}
		addrs := endpointAddrs(endpoints, labels[0])
		if len(addrs) == 0 {
			return noSuchName
		}
		return Result{Answer: addressRecords(q, addrs)}
	case 2:
		return z.portName(q, svc, endpoints, strings.TrimPrefix(labels[0], "_"), strings.TrimPrefix(labels[1], "_"))
	}
	return noSuchName
}

// externalName answers with the alias alone: nothing exists below it, and an address is no name.
func externalName(q question, svc *corev1.Service, labels []string) Result {
	target := dns.Fqdn(svc.Spec.ExternalName)
	if _, err := netip.ParseAddr(svc.Spec.ExternalName); err == nil || len(labels) > 0 {
		return noSuchName
	}
	r := Result{Answer: []dns.RR{&dns.CNAME{Hdr: q.header(dns.TypeCNAME), Target: target}}}
	if q.qtype == dns.TypeA || q.qtype == dns.TypeAAAA {
		r.Alias = target
	}
	return r
}

// portName answers _port._protocol.<service>: SRV records, and like CoreDNS addresses too.
func (z *Zone) portName(q question, svc *corev1.Service, endpoints []endpoint, port, protocol string) Result {
	r := z.srv(q, svc, endpoints, port, protocol)
	if r.Negative() {
		return noSuchName
	}
	switch {
	case q.qtype == dns.TypeSRV:
		return r
	case svc.Spec.ClusterIP == corev1.ClusterIPNone:
		return Result{Answer: addressRecords(q, endpointAddrs(endpoints, ""))}
	}
	return Result{Answer: addressRecords(q, clusterIPs(svc))}
}

// srv makes the SRV records of svc's named ports, of all ports where port is empty, with their targets' addresses as extra.
func (z *Zone) srv(q question, svc *corev1.Service, endpoints []endpoint, port, protocol string) Result {
	var r Result
	base := serviceName(svc, q.origin)
	add := func(target string, number int32, addrs ...netip.Addr) {
		r.Answer = append(r.Answer, &dns.SRV{Hdr: q.header(dns.TypeSRV), Port: uint16(number), Target: target})
		for _, a := range addrs {
			r.Extra = append(r.Extra, addressRecord(question{name: target, origin: q.origin}, a))
		}
	}
	if svc.Spec.ClusterIP != corev1.ClusterIPNone {
		for _, p := range svc.Spec.Ports {
			if portMatches(p.Name, p.Protocol, port, protocol) {
				add(base, p.Port, clusterIPs(svc)...)
			}
		}
		return weighted(r)
	}
	for _, e := range endpoints {
		for _, p := range e.ports {
			if portMatches(p.name, p.protocol, port, protocol) {
				add(e.host+"."+base, p.number, e.addr)
			}
		}
	}
	return weighted(r)
}

// weighted spreads 100 evenly over the records, at least 1 each, and drops repeated addresses.
func weighted(r Result) Result {
	for _, rr := range r.Answer {
		rr.(*dns.SRV).Weight = uint16(max(100/len(r.Answer), 1))
	}
	r.Extra = dns.Dedup(r.Extra, nil)
	return r
}

func portMatches(name string, have corev1.Protocol, want, protocol string) bool {
	if want == "" {
		return true
	}
	return name == want && strings.EqualFold(string(have), protocol)
}

// hasProtocol says whether label is _protocol of one of svc's named ports.
func hasProtocol(svc *corev1.Service, label string) bool {
	protocol, ok := strings.CutPrefix(label, "_")
	if !ok {
		return false
	}
	for _, p := range svc.Spec.Ports {
		if p.Name != "" && strings.EqualFold(string(p.Protocol), protocol) {
			return true
		}
	}
	return false
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{svc.Spec.ClusterIP}
	}
	var out []netip.Addr
	for _, s := range ips {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// endpointAddrs returns the distinct addresses of the endpoints whose host name is host, of all where host is empty.
func endpointAddrs(endpoints []endpoint, host string) []netip.Addr {
	var out []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, e := range endpoints {
		if (host == "" || e.host == host) && !seen[e.addr] {
			seen[e.addr] = true
			out = append(out, e.addr)
		}
	}
	return out
}
