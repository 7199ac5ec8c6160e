package cluster

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// reverse answers for the reverse name of addr: a cluster IP has the one name of its Service, an endpoint one for each
// Service that selects it.
func (z *Zone) reverse(name string, qtype uint16, addr netip.Addr) (Result, bool) {
	if !z.objects.Synced() {
		return unsynced, true
	}
	targets := z.reverseNames(addr)
	if len(targets) == 0 {
		return Result{}, false
	}
	var r Result
	if qtype == dns.TypePTR || qtype == dns.TypeANY {
		for _, target := range targets {
			r.Answer = append(r.Answer, &dns.PTR{Hdr: question{name: name}.header(dns.TypePTR), Ptr: target})
		}
	}
	return r, true
}

func (z *Zone) reverseNames(addr netip.Addr) []string {
	if objs, err := z.objects.services.ByIndex(byClusterIP, addr.String()); err == nil && len(objs) > 0 {
		return []string{serviceName(objs[0].(*corev1.Service), z.origin)}
	}
	objs, err := z.objects.slices.ByIndex(byEndpointIP, addr.String())
	if err != nil {
		return nil
	}
	var names []string
	for _, obj := range objs {
		slice := obj.(*discoveryv1.EndpointSlice)
		svc := z.objects.service(slice.Namespace, slice.Labels[discoveryv1.LabelServiceName])
		if svc == nil {
			continue
		}
		for _, e := range z.objects.endpoints(svc) {
			if e.addr == addr {
				names = append(names, e.host+"."+serviceName(svc, z.origin))
				break
			}
		}
	}
	return names
}

// reverseAddr parses a name below in-addr.arpa or ip6.arpa (RFC 1035 3.5, RFC 3596 2.5); name is lower case.
func reverseAddr(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		labels[0], labels[1], labels[2], labels[3] = labels[3], labels[2], labels[1], labels[0]
		addr, err := netip.ParseAddr(strings.Join(labels, "."))
		return addr, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	labels := strings.Split(rest, ".")
	if !ok || len(labels) != 32 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i, l := range labels {
		v, err := strconv.ParseUint(l, 16, 4)
		if err != nil || len(l) != 1 {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(v) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}
