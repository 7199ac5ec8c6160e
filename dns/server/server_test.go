package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skep-io/skep/dns/cluster"
)

// upstream serves a fixed zone on loopback until the test ends.
func upstream(t *testing.T) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		if strings.EqualFold(q.Question[0].Name, "example.com.") {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "example.com.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 9)}}
		} else {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = s.Shutdown() })
	return netip.MustParseAddrPort(conn.LocalAddr().String())
}

// start runs a server with the given objects and returns its address.
func start(t *testing.T, upstreams []netip.AddrPort, services ...*corev1.Service) string {
	t.Helper()
	client := fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	for _, s := range services {
		if err := client.Tracker().Add(s); err != nil {
			t.Fatal(err)
		}
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	objects, err := cluster.NewObjects(factory)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(probe.Addr().String())
	probe.Close()
	s := New(Config{Listen: []netip.AddrPort{addr}, Zone: cluster.NewZone("cluster.local", objects), Upstreams: upstreams, Logger: slog.New(slog.DiscardHandler)})
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return addr.String()
}

func ask(t *testing.T, addr, network, name string, qtype uint16, edns uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, qtype)
	if edns > 0 {
		q.SetEdns0(edns, false)
	}
	m, _, err := (&dns.Client{Net: network}).Exchange(q, addr)
	if err != nil {
		t.Fatalf("%s over %s: %v", name, network, err)
	}
	return m
}

func clusterService(name, ip string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip}}
}

func TestClusterNames(t *testing.T) {
	addr := start(t, nil, clusterService("web", "10.96.0.5"))
	for _, network := range []string{"udp", "tcp"} {
		m := ask(t, addr, network, "web.default.svc.cluster.local.", dns.TypeA, 0)
		if len(m.Answer) != 1 || !m.Authoritative || m.Answer[0].(*dns.A).A.String() != "10.96.0.5" {
			t.Errorf("%s: %v", network, m)
		}
	}
	for name, want := range map[string]int{"gone.default.svc.cluster.local.": dns.RcodeNameError, "default.svc.cluster.local.": dns.RcodeSuccess} {
		m := ask(t, addr, "udp", name, dns.TypeA, 0)
		if m.Rcode != want || len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA {
			t.Errorf("%s: %v", name, m)
		}
	}
}

func TestOutsideNames(t *testing.T) {
	ext := clusterService("ext", "")
	ext.Spec.Type, ext.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	addr := start(t, []netip.AddrPort{upstream(t)}, ext)
	for range 2 { // the second time from the cache
		m := ask(t, addr, "udp", "Example.com.", dns.TypeA, 0)
		if len(m.Answer) != 1 || m.Authoritative || !m.RecursionAvailable || m.Answer[0].Header().Name != "Example.com." {
			t.Errorf("%v", m)
		}
	}
	if m := ask(t, addr, "udp", "ext.default.svc.cluster.local.", dns.TypeA, 0); len(m.Answer) != 2 {
		t.Errorf("the alias is not followed: %v", m)
	}
	if m := ask(t, addr, "udp", "gone.example.", dns.TypeA, 0); m.Rcode != dns.RcodeNameError {
		t.Errorf("%v", m)
	}
}

func TestDeadUpstreamIsAServerFailure(t *testing.T) {
	addr := start(t, nil)
	if m := ask(t, addr, "udp", "example.com.", dns.TypeA, 0); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v", m)
	}
}

func TestSizes(t *testing.T) {
	svc := clusterService("many", "10.96.1.1")
	for i := range 80 {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: fmt.Sprintf("p%d", i), Port: int32(i + 1), Protocol: corev1.ProtocolTCP})
	}
	addr := start(t, nil, svc)
	const name = "many.default.svc.cluster.local."
	for _, c := range []struct {
		network string
		edns    uint16
		max     int
		cut     bool
	}{{"udp", 0, 512, true}, {"udp", 4096, 1232, true}, {"tcp", 0, dns.MaxMsgSize, false}} {
		m := ask(t, addr, c.network, name, dns.TypeSRV, c.edns)
		m.Compress = true // as it was on the wire
		if m.Truncated != c.cut || m.Len() > c.max || (c.edns > 0) != (m.IsEdns0() != nil) {
			t.Errorf("%s with EDNS size %d: %d bytes, truncated %v", c.network, c.edns, m.Len(), m.Truncated)
		}
	}
}

func TestRefusals(t *testing.T) {
	addr := start(t, nil)
	chaos := new(dns.Msg).SetQuestion("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	badVersion := new(dns.Msg).SetQuestion("cluster.local.", dns.TypeA)
	badVersion.SetEdns0(1232, false).IsEdns0().SetVersion(1)
	notify := new(dns.Msg).SetNotify("cluster.local.")
	for want, q := range map[int]*dns.Msg{dns.RcodeRefused: chaos, dns.RcodeBadVers: badVersion, dns.RcodeNotImplemented: notify} {
		m, _, err := new(dns.Client).Exchange(q, addr)
		if err != nil || m.Rcode != want {
			t.Errorf("%v: %v, %v", q.Question, m, err)
		}
	}
}
