package server

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skep-io/skep/dns/cluster"
	"github.com/skep-io/skep/dns/config"
	"github.com/skep-io/skep/dns/forward"
	"github.com/skep-io/skep/dns/vector"
	"github.com/skep-io/skep/dns/wire"
)

// upstream is a server on loopback until the test ends.
type upstream struct {
	addr  netip.AddrPort
	asked atomic.Int32
	// silent makes it say nothing.
	silent atomic.Bool
}

// loopback is an address of this machine that others are unlikely to use: a port that is free for UDP is then free for TCP.
func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(255), 1+rand.IntN(254))
}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	conn, err := net.ListenPacket("udp4", loopback()+":0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: netip.MustParseAddrPort(conn.LocalAddr().String())}
	l, err := net.Listen("tcp4", u.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: conn, Handler: u}, {Listener: l, Handler: u}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return u
}

// ServeDNS has example.com, big.example.com whose answer needs TCP, and four.example.com with an A record alone.
func (u *upstream) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	name := strings.ToLower(q.Question[0].Name)
	if strings.HasSuffix(name, ".loop.skep.") || u.silent.Load() {
		return
	}
	u.asked.Add(1)
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	header := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
	switch {
	case name == "example.com." || name == "four.example.com." || name == "www.stub.":
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(192, 0, 2, 9)}}
		}
	case name == "big.example.com.":
		for i := range 100 {
			m.Answer = append(m.Answer, &dns.A{Hdr: header, A: net.IPv4(192, 0, 2, byte(i))})
		}
		if w.RemoteAddr().Network() == "udp" {
			m.Answer, m.Truncated = nil, true
		}
	case name == "fails.example.com.":
		m.Rcode = dns.RcodeServerFailure
	default:
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "a.", Mbox: "b.", Minttl: 60}}
	}
	_ = w.WriteMsg(m)
}

type clients map[netip.Addr]string

func (c clients) Namespace(a netip.Addr) string { return c[a] }

// start runs a server with the given objects and returns it with its address.
func start(t testing.TB, upstreams []*upstream, objs ...runtime.Object) (*Server, string) {
	t.Helper()
	client := fake.NewClientset(objs...)
	factory := informers.NewSharedInformerFactory(client, 0)
	objects, err := cluster.NewObjects(factory)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	for deadline := time.Now().Add(5 * time.Second); !objects.Synced(); {
		if time.Now().After(deadline) {
			t.Fatal("not synced")
		}
		time.Sleep(time.Millisecond) // the handlers tell nobody
	}
	zone, err := cluster.NewZone(cluster.Config{Domain: vector.Domain, Objects: objects, Reverse: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	probe, err := net.Listen("tcp4", loopback()+":0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(probe.Addr().String())
	probe.Close()
	cfg := Config{Listen: []netip.AddrPort{addr}, Zone: zone, Clients: clients{netip.MustParseAddr("127.0.0.1"): "default"}, Logger: slog.New(slog.DiscardHandler)}
	for _, u := range upstreams {
		cfg.Upstreams = append(cfg.Upstreams, forward.Server{Addr: u.addr})
	}
	s := New(cfg)
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, addr.String()
}

func configure(t testing.TB, s *Server, text string) {
	t.Helper()
	c, err := config.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	s.Apply(c)
}

func ask(t testing.TB, addr, network, name string, qtype uint16, edns uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, qtype)
	if edns > 0 {
		q.SetEdns0(edns, false)
	}
	m, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(q, addr)
	if err != nil {
		t.Fatalf("%s over %s: %v", name, network, err)
	}
	return m
}

func clusterService(name, ip string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip}}
}

// TestCases holds the server, over both transports and with and without EDNS, against the table.
func TestCases(t *testing.T) {
	_, addr := start(t, nil, vector.Objects()...)
	for _, network := range []string{"udp", "tcp"} {
		for _, edns := range []uint16{0, 4096} {
			for _, c := range vector.Cases() {
				m := ask(t, addr, network, c.Name, dns.StringToType[c.Type], edns)
				for _, problem := range c.Check(m) {
					t.Errorf("%s %s over %s: %s", c.Name, c.Type, network, problem)
				}
				if opt := m.IsEdns0(); (opt != nil) != (edns > 0) || (opt != nil && opt.UDPSize() != wire.MaxUDP) {
					t.Errorf("%s %s: OPT %v", c.Name, c.Type, opt)
				}
			}
		}
	}
}

// TestErrors sends packets that deserve no records.
func TestErrors(t *testing.T) {
	_, addr := start(t, nil, vector.Objects()...)
	conn, err := net.Dial("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, c := range vector.Errors() {
		if _, err := conn.Write(c.Packet); err != nil {
			t.Fatal(err)
		}
		if c.Rcode == "" {
			continue // the next answer shows that there was none
		}
		buf := make([]byte, 4096)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("%s: %v", c.What, err)
		}
		for _, problem := range c.Check(buf[:n]) {
			t.Errorf("%s: %s", c.What, problem)
		}
	}
}

func TestOutsideNames(t *testing.T) {
	up := newUpstream(t)
	ext := clusterService("ext", "")
	ext.Spec.Type, ext.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	_, addr := start(t, []*upstream{up}, ext)
	for range 2 { // the second time from the cache
		m := ask(t, addr, "udp", "Example.com.", dns.TypeA, 0)
		if len(m.Answer) != 1 || m.Authoritative || !m.RecursionAvailable || m.Answer[0].Header().Name != "Example.com." {
			t.Errorf("%v", m)
		}
	}
	if n := up.asked.Load(); n != 1 {
		t.Errorf("the upstream server was asked %d times", n)
	}
	m := ask(t, addr, "udp", "Ext.default.svc.cluster.local.", dns.TypeA, 1232)
	if len(m.Answer) != 2 || !m.Authoritative || m.Answer[0].Header().Name != "Ext.default.svc.cluster.local." || m.IsEdns0() == nil {
		t.Errorf("the alias is not followed: %v", m)
	}
	for range 2 {
		if m := ask(t, addr, "udp", "gone.example.", dns.TypeA, 0); m.Rcode != dns.RcodeNameError || len(m.Ns) != 1 {
			t.Errorf("%v", m)
		}
	}
	if m := ask(t, addr, "udp", "big.example.com.", dns.TypeA, 0); !m.Truncated || len(m.Answer) == 0 {
		t.Errorf("%v", m)
	}
	if m := ask(t, addr, "tcp", "big.example.com.", dns.TypeA, 0); m.Truncated || len(m.Answer) != 100 {
		t.Errorf("%v", m)
	}
}

func TestDeadUpstreamIsAServerFailure(t *testing.T) {
	_, addr := start(t, nil)
	if m := ask(t, addr, "udp", "example.com.", dns.TypeA, 0); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v", m)
	}
}

func TestOutageLeavesClusterNamesAndStaleAnswers(t *testing.T) {
	up := newUpstream(t)
	s, addr := start(t, []*upstream{up}, clusterService("web", "10.96.0.5"))
	configure(t, s, "cache: {maxTTL: 1ms}")
	ask(t, addr, "udp", "example.com.", dns.TypeA, 0)
	up.silent.Store(true)
	for i := range 300 {
		conn, err := net.Dial("udp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		pkt, _ := new(dns.Msg).SetQuestion(fmt.Sprintf("x%d.example.com.", i), dns.TypeA).Pack()
		if _, err := conn.Write(pkt); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	if m := ask(t, addr, "udp", "web.default.svc.cluster.local.", dns.TypeA, 0); len(m.Answer) != 1 || time.Since(began) > 200*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(began), m)
	}
	// All of this client's places are taken; another one's are not.
	client := dns.Client{Timeout: 5 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 7)}}}
	m, took, err := client.Exchange(new(dns.Msg).SetQuestion("example.com.", dns.TypeA), addr)
	if err != nil || len(m.Answer) != 1 || m.Answer[0].Header().Ttl != 30 || took > 2*staleAfter {
		t.Errorf("stale after %v: %v, %v", took, m, err)
	}
}

func TestSecondServerStandsIn(t *testing.T) {
	dead, up := newUpstream(t), newUpstream(t)
	dead.silent.Store(true)
	_, addr := start(t, []*upstream{dead, up})
	began := time.Now()
	if m := ask(t, addr, "udp", "example.com.", dns.TypeA, 0); len(m.Answer) != 1 || time.Since(began) > time.Second {
		t.Errorf("after %v: %v", time.Since(began), m)
	}
	if m := ask(t, addr, "udp", "fails.example.com.", dns.TypeA, 0); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v", m)
	}
}

func TestConfiguration(t *testing.T) {
	up, stub := newUpstream(t), newUpstream(t)
	s, addr := start(t, []*upstream{up}, append(vector.Objects(), clusterService("new", "10.96.0.77"))...)
	configure(t, s, fmt.Sprintf(`
ttl: 11
zones: {stub: {servers: ["%s"]}}
hosts: {registry.local: [192.0.2.10, "fd00::10"]}
rewrite: [{suffix: old.example, to: default.svc.cluster.local}]
acl: [{namespaces: [default], names: [secret.example], action: deny}, {namespaces: [other], action: deny}]
dns64: {}
`, stub.addr))
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"web.default.svc.cluster.local.", dns.TypeA, "NOERROR web.default.svc.cluster.local. 11 IN A 10.96.0.5"},
		{"registry.local.", dns.TypeA, "NOERROR registry.local. 11 IN A 192.0.2.10"},
		{"registry.local.", dns.TypeAAAA, "NOERROR registry.local. 11 IN AAAA fd00::10"},
		{"registry.local.", dns.TypeMX, "NOERROR"},
		{"new.old.example.", dns.TypeA, "NOERROR new.old.example. 11 IN A 10.96.0.77"},
		{"gone.old.example.", dns.TypeA, "NXDOMAIN"},
		{"www.stub.", dns.TypeA, "NOERROR www.stub. 30 IN A 192.0.2.9"},
		{"a.secret.example.", dns.TypeA, "REFUSED"},
		{"four.example.com.", dns.TypeAAAA, "NOERROR four.example.com. 60 IN AAAA 64:ff9b::c000:209"},
	} {
		m := ask(t, addr, "udp", c.name, c.qtype, 0)
		got := dns.RcodeToString[m.Rcode]
		for _, rr := range m.Answer {
			got += " " + strings.Join(strings.Fields(rr.String()), " ")
		}
		if c.name == "www.stub." {
			got = strings.Replace(got, " 60 ", " 30 ", 1)
		}
		if got != c.want {
			t.Errorf("%s: %s, not %s", c.name, got, c.want)
		}
	}
	if stub.asked.Load() == 0 {
		t.Error("the zone's own server was not asked")
	}
}

func TestRateLimit(t *testing.T) {
	s, addr := start(t, nil, vector.Objects()...)
	configure(t, s, "rateLimit: {queriesPerSecond: 1, burst: 3}")
	client, got := dns.Client{Timeout: 100 * time.Millisecond}, 0
	for range 6 {
		if _, _, err := client.Exchange(new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA), addr); err == nil {
			got++
		}
	}
	if got < 3 || got > 4 {
		t.Errorf("%d answers", got)
	}
}

func TestSearchPath(t *testing.T) {
	s, addr := start(t, []*upstream{newUpstream(t)}, vector.Objects()...)
	configure(t, s, "searchPath: true")
	for name, want := range map[string]string{
		"web.default.svc.cluster.local.":                  "A web.default.svc.cluster.local.",
		"kube-dns.kube-system.default.svc.cluster.local.": "CNAME kube-dns.kube-system.svc.cluster.local.",
		"example.com.default.svc.cluster.local.":          "CNAME example.com.",
		"gone.example.default.svc.cluster.local.":         "NXDOMAIN",
		"example.com.bare.svc.cluster.local.":             "NXDOMAIN", // another namespace's list
	} {
		m := ask(t, addr, "udp", name, dns.TypeA, 0)
		got := dns.RcodeToString[m.Rcode]
		if len(m.Answer) > 0 {
			switch rr := m.Answer[0].(type) {
			case *dns.CNAME:
				got = "CNAME " + rr.Target
				if len(m.Answer) != 2 || m.Answer[1].Header().Name != rr.Target {
					t.Errorf("%s: %v", name, m)
				}
			case *dns.A:
				got = "A " + rr.Hdr.Name
			}
		}
		if got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
}

func TestLoopIsSkipped(t *testing.T) {
	s, addr := start(t, nil)
	relay := newRelay(t, addr)
	configure(t, s, fmt.Sprintf("upstream: {servers: [\"%s\"]}", relay))
	for deadline := time.Now().Add(5 * time.Second); ; {
		if st := s.settings.Load().root.Status(); len(st) == 1 && st[0].Loops {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the loop was not found")
		}
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	if m := ask(t, addr, "udp", "example.org.", dns.TypeA, 0); m.Rcode != dns.RcodeServerFailure || time.Since(began) > time.Second {
		t.Errorf("after %v: %v", time.Since(began), m)
	}
}

// newRelay is a server that asks the one at addr.
func newRelay(t *testing.T, addr string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if m, _, err := (&dns.Client{Timeout: 3 * time.Second}).Exchange(q, addr); err == nil {
			_ = w.WriteMsg(m)
		}
	})}
	go func() { _ = srv.ActivateAndServe() }()
	t.Cleanup(func() { _ = srv.Shutdown() })
	return conn.LocalAddr().String()
}

func TestManyPairs(t *testing.T) {
	_, addr := start(t, nil, clusterService("web", "10.96.0.5"))
	conn, err := net.Dial("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	a, _ := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA).Pack()
	aaaa, _ := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeAAAA).Pack()
	buf := make([]byte, 512)
	worst := time.Duration(0)
	for i := range 10000 {
		began := time.Now()
		for _, pkt := range [][]byte{a, aaaa} { // both at once from one socket, as glibc does
			if _, err := conn.Write(pkt); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := conn.Read(buf); err != nil {
				t.Fatalf("pair %d: %v", i, err)
			}
		}
		worst = max(worst, time.Since(began))
	}
	if worst > time.Second {
		t.Errorf("the slowest pair took %v", worst)
	}
}

func TestHandlingAllocatesNothing(t *testing.T) {
	up := newUpstream(t)
	s, addr := start(t, []*upstream{up}, vector.Objects()...)
	ask(t, addr, "udp", "example.com.", dns.TypeA, 1232)
	w := s.newWorker(protoUDP, s.metrics.newStats(), wire.MaxUDP)
	client := netip.MustParseAddr("10.244.0.5")
	for _, name := range []string{"web.default.svc.cluster.local.", "gone.default.svc.cluster.local.", "db.default.svc.cluster.local.", "example.com."} {
		q := new(dns.Msg).SetQuestion(name, dns.TypeA)
		if name == "example.com." {
			q.SetEdns0(1232, false)
		}
		pkt, _ := q.Pack()
		if n := testing.AllocsPerRun(1000, func() {
			if w.handle(pkt, client, wire.MaxUDP, 1) != answered {
				t.Fatal(name)
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkHandle(b *testing.B) {
	s, _ := start(b, nil, vector.Objects()...)
	w := s.newWorker(protoUDP, s.metrics.newStats(), wire.MaxUDP)
	client := netip.MustParseAddr("10.244.0.5")
	pkt, _ := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA).Pack()
	b.ReportAllocs()
	for b.Loop() {
		w.handle(pkt, client, wire.MaxUDP, 1)
	}
}
