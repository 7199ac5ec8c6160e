package cluster

import (
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

func meta(ns, name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }

func service(name, clusterIP string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: meta("default", name), Spec: corev1.ServiceSpec{ClusterIP: clusterIP, Ports: ports}}
}

func slice(svc string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta("default", svc+"-1"), AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}}}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: svc}
	return s
}

func testZone(t *testing.T, objs ...any) *Zone {
	t.Helper()
	o := &Objects{
		services:   cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byClusterIP: clusterIPKeys}),
		slices:     cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byService: serviceKeys, byEndpointIP: endpointIPKeys}),
		namespaces: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{}),
	}
	o.changed.Store(42)
	for _, obj := range append(objs, &corev1.Namespace{ObjectMeta: meta("", "default")}) {
		into := o.services
		switch obj.(type) {
		case *corev1.Namespace:
			into = o.namespaces
		case *discoveryv1.EndpointSlice:
			into = o.slices
		}
		if err := into.Add(obj); err != nil {
			t.Fatal(err)
		}
	}
	return NewZone("cluster.local", o)
}

// show writes a result as "RCODE record; record", each record as type and data.
func show(r Result) string {
	var records []string
	for _, rr := range r.Answer {
		h := rr.Header()
		records = append(records, dns.TypeToString[h.Rrtype]+" "+strings.TrimPrefix(rr.String(), h.String()))
	}
	slices.Sort(records)
	return strings.TrimSpace(dns.RcodeToString[r.Rcode] + " " + strings.Join(records, "; "))
}

func TestZone(t *testing.T) {
	http := corev1.ServicePort{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}
	bare := corev1.ServicePort{Protocol: corev1.ProtocolUDP, Port: 99}
	external := service("ext", "", http)
	external.Spec.Type, external.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	literal := service("literal", "")
	literal.Spec.Type, literal.Spec.ExternalName = corev1.ServiceTypeExternalName, "192.0.2.7"
	z := testZone(t,
		service("web", "10.96.0.5", http), service("mixed", "10.96.0.6", http, bare), service("db", corev1.ClusterIPNone, http), service("empty", corev1.ClusterIPNone, http), external, literal,
		slice("web", discoveryv1.Endpoint{Addresses: []string{"10.244.0.9"}}),
		slice("db",
			discoveryv1.Endpoint{Addresses: []string{"10.244.0.2"}, Hostname: ptr.To("db-0")},
			discoveryv1.Endpoint{Addresses: []string{"10.244.0.3"}},
			discoveryv1.Endpoint{Addresses: []string{"10.244.0.4"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}}),
	)
	for _, c := range []struct{ name, qtype, want string }{
		{"cluster.local.", "SOA", "NOERROR SOA ns.dns.cluster.local. hostmaster.cluster.local. 42 7200 1800 86400 5"},
		{"cluster.local.", "NS", "NOERROR NS kube-dns.kube-system.svc.cluster.local."},
		{"cluster.local.", "A", "NOERROR"},
		{"svc.cluster.local.", "A", "NOERROR"},
		{"default.svc.cluster.local.", "A", "NOERROR"},
		{"nowhere.svc.cluster.local.", "A", "NXDOMAIN"},
		{"other.cluster.local.", "A", "NXDOMAIN"},
		{"dns-version.cluster.local.", "TXT", `NOERROR TXT "1.1.0"`},
		{"dns-version.cluster.local.", "A", "NOERROR"},
		{"web.default.svc.cluster.local.", "A", "NOERROR A 10.96.0.5"},
		{"WEB.Default.svc.cluster.LOCAL.", "A", "NOERROR A 10.96.0.5"},
		{"web.default.svc.cluster.local.", "AAAA", "NOERROR"},
		{"web.default.svc.cluster.local.", "MX", "NOERROR"},
		{"gone.default.svc.cluster.local.", "AAAA", "NXDOMAIN"},
		{"web.nowhere.svc.cluster.local.", "A", "NXDOMAIN"},
		{"_http._tcp.web.default.svc.cluster.local.", "SRV", "NOERROR SRV 0 100 80 web.default.svc.cluster.local."},
		{"http.tcp.web.default.svc.cluster.local.", "SRV", "NOERROR SRV 0 100 80 web.default.svc.cluster.local."},
		{"_http._udp.web.default.svc.cluster.local.", "SRV", "NXDOMAIN"},
		{"_http._tcp.web.default.svc.cluster.local.", "A", "NOERROR A 10.96.0.5"},
		{"_tcp.web.default.svc.cluster.local.", "SRV", "NOERROR"},
		{"mixed.default.svc.cluster.local.", "SRV", "NOERROR SRV 0 50 80 mixed.default.svc.cluster.local.; SRV 0 50 99 mixed.default.svc.cluster.local."},
		{"10-244-0-9.web.default.svc.cluster.local.", "A", "NOERROR A 10.244.0.9"},
		{"db.default.svc.cluster.local.", "A", "NOERROR A 10.244.0.2; A 10.244.0.3"},
		{"db-0.db.default.svc.cluster.local.", "A", "NOERROR A 10.244.0.2"},
		{"10-244-0-3.db.default.svc.cluster.local.", "A", "NOERROR A 10.244.0.3"},
		{"10-244-0-4.db.default.svc.cluster.local.", "A", "NXDOMAIN"},
		{"_http._tcp.db.default.svc.cluster.local.", "SRV", "NOERROR SRV 0 50 8080 10-244-0-3.db.default.svc.cluster.local.; SRV 0 50 8080 db-0.db.default.svc.cluster.local."},
		{"empty.default.svc.cluster.local.", "A", "NXDOMAIN"},
		{"ext.default.svc.cluster.local.", "A", "NOERROR CNAME example.com."},
		{"ext.default.svc.cluster.local.", "CNAME", "NOERROR CNAME example.com."},
		{"below.ext.default.svc.cluster.local.", "A", "NXDOMAIN"},
		{"literal.default.svc.cluster.local.", "A", "NXDOMAIN"},
		{"10-1-2-3.default.pod.cluster.local.", "A", "NOERROR A 10.1.2.3"},
		{"10-1-2-3.default.pod.cluster.local.", "AAAA", "NOERROR"},
		{"fd00--1.default.pod.cluster.local.", "AAAA", "NOERROR AAAA fd00::1"},
		{"10-1-2-3.nowhere.pod.cluster.local.", "A", "NXDOMAIN"},
		{"nonsense.default.pod.cluster.local.", "A", "NXDOMAIN"},
		{"5.0.96.10.in-addr.arpa.", "PTR", "NOERROR PTR web.default.svc.cluster.local."},
		{"2.0.244.10.in-addr.arpa.", "PTR", "NOERROR PTR db-0.db.default.svc.cluster.local."},
		{"9.0.244.10.in-addr.arpa.", "A", "NOERROR"},
	} {
		r, ours := z.Resolve(dns.Question{Name: c.name, Qtype: dns.StringToType[c.qtype], Qclass: dns.ClassINET})
		if got := show(r); !ours || got != c.want {
			t.Errorf("%s %s: %s (ours %v), not %s", c.name, c.qtype, got, ours, c.want)
		}
	}
	for _, name := range []string{"example.com.", "xcluster.local.", "1.2.0.192.in-addr.arpa.", "2.0.192.in-addr.arpa.", "."} {
		if r, ours := z.Resolve(dns.Question{Name: name, Qtype: dns.TypePTR, Qclass: dns.ClassINET}); ours {
			t.Errorf("%s is answered: %s", name, show(r))
		}
	}
}

func TestAnswersRepeatTheSpelling(t *testing.T) {
	z := testZone(t, service("web", "10.96.0.5", corev1.ServicePort{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}))
	r, _ := z.Resolve(dns.Question{Name: "Web.default.svc.Cluster.Local.", Qtype: dns.TypeSRV, Qclass: dns.ClassINET})
	srv, ok := r.Answer[0].(*dns.SRV)
	if !ok || srv.Hdr.Name != "Web.default.svc.Cluster.Local." || srv.Target != "web.default.svc.Cluster.Local." {
		t.Errorf("%v", r.Answer)
	}
	if len(r.Extra) != 1 || r.Extra[0].(*dns.A).A.String() != "10.96.0.5" {
		t.Errorf("extra %v", r.Extra)
	}
}

func TestUnsyncedIsNoDenial(t *testing.T) {
	z := testZone(t)
	z.objects.synced = []cache.InformerSynced{func() bool { return false }}
	r, ours := z.Resolve(dns.Question{Name: "web.default.svc.cluster.local.", Qtype: dns.TypeA, Qclass: dns.ClassINET})
	if !ours || r.Rcode != dns.RcodeServerFailure {
		t.Errorf("unsynced: %v %s", ours, show(r))
	}
}
