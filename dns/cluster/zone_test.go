package cluster

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/dns/vector"
	"github.com/skep-io/skep/dns/wire"
)

// testZone is a zone of the objects without an API server; its serial is 42.
func testZone(t testing.TB, objs ...runtime.Object) *Zone {
	t.Helper()
	o := newObjects(cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{}), cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byService: serviceKeys}))
	for _, obj := range objs {
		apply(t, o, obj, true)
	}
	z, err := NewZone(Config{Domain: vector.Domain, Objects: o,
		Reverse: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}})
	if err != nil {
		t.Fatal(err)
	}
	o.changed.Store(42)
	return z
}

// apply does what an event of the informers does.
func apply(t testing.TB, o *Objects, obj runtime.Object, there bool) {
	t.Helper()
	change := func(i cache.Indexer) {
		f := i.Delete
		if there {
			f = i.Update
		}
		if err := f(obj); err != nil {
			t.Fatal(err)
		}
	}
	switch obj.(type) {
	case *corev1.Namespace:
		o.namespaceChanged(obj, there)
	case *corev1.Service:
		change(o.services)
		o.serviceChanged(obj, there)
	case *discoveryv1.EndpointSlice:
		change(o.slices)
		o.sliceChanged(obj, there)
	}
}

// resolve asks the zone as a server does and reads the answer with another library.
func resolve(t testing.TB, z *Zone, name string, qtype uint16, limit int) (*dns.Msg, Verdict) {
	t.Helper()
	pkt, err := new(dns.Msg).SetQuestion(name, qtype).Pack()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var q wire.Query
	if q.Parse(pkt) != wire.Valid {
		t.Fatalf("%s is not read", name)
	}
	r := wire.NewReply(wire.MaxTCP)
	r.Begin(&q, pkt, limit)
	v, _ := z.Answer(&q, r, 0)
	m := new(dns.Msg)
	if err := m.Unpack(r.Finish(&q)); err != nil {
		t.Fatalf("%s %s: the answer is malformed: %v", name, dns.TypeToString[qtype], err)
	}
	if len(r.Bytes()) > limit {
		t.Errorf("%s: %d bytes, limit %d", name, len(r.Bytes()), limit)
	}
	return m, v
}

func TestCases(t *testing.T) {
	z := testZone(t, vector.Objects()...)
	for _, c := range vector.Cases() {
		m, v := resolve(t, z, c.Name, dns.StringToType[c.Type], wire.MaxTCP)
		if v == Outside {
			t.Errorf("%s %s: not ours", c.Name, c.Type)
			continue
		}
		for _, problem := range c.Check(m) {
			t.Errorf("%s %s: %s", c.Name, c.Type, problem)
		}
	}
	for _, name := range vector.Outside {
		if m, v := resolve(t, z, name, dns.TypePTR, wire.MaxTCP); v != Outside {
			t.Errorf("%s is answered: %s", name, m)
		}
	}
}

func TestAliasOutOfTheZone(t *testing.T) {
	z := testZone(t, vector.Objects()...)
	if m, v := resolve(t, z, "ext.default.svc.cluster.local.", dns.TypeA, 512); v != Alias || len(m.Answer) != 1 {
		t.Errorf("%d: %s", v, m)
	}
}

type pods map[string]string

func (p pods) Synced() bool { return p != nil }

func (p pods) HasPod(ns string, addr netip.Addr) bool { return p[addr.String()] == ns }

func TestPodModes(t *testing.T) {
	z := testZone(t, vector.Objects()...)
	z.cfg.Pods = pods{"10.1.2.3": "default"}
	for _, c := range []struct {
		mode  PodMode
		label string
		want  int
	}{{PodsDisabled, "10-1-2-3", 3}, {PodsInsecure, "10-1-2-4", 0}, {PodsVerified, "10-1-2-3", 0}, {PodsVerified, "10-1-2-4", 3}} {
		z.SetPods(c.mode)
		if m, _ := resolve(t, z, c.label+".default.pod.cluster.local.", dns.TypeA, 512); m.Rcode != c.want {
			t.Errorf("mode %d: %s: %s", c.mode, c.label, dns.RcodeToString[m.Rcode])
		}
	}
	z.cfg.Pods = pods(nil)
	if m, _ := resolve(t, z, "10-1-2-3.default.pod.cluster.local.", dns.TypeA, 512); m.Rcode != dns.RcodeServerFailure || len(m.Ns) > 0 {
		t.Errorf("a pod's name while pods are not known: %s", m)
	}
}

func TestUnsyncedIsNoDenial(t *testing.T) {
	z := testZone(t)
	z.cfg.Objects.synced = []cache.InformerSynced{func() bool { return false }}
	for _, name := range []string{"web.default.svc.cluster.local.", "cluster.local.", "5.0.96.10.in-addr.arpa."} {
		if m, v := resolve(t, z, name, dns.TypeA, 512); v != Answered || m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s unsynced: %d %s", name, v, m)
		}
	}
}

// TestFollowsChanges asks after each event: what was made is there, what was removed is gone, and nothing is left behind.
func TestFollowsChanges(t *testing.T) {
	z := testZone(t)
	o, objs := z.cfg.Objects, vector.Objects()
	for range 2 {
		for _, obj := range objs {
			apply(t, o, obj, true)
		}
		slices.Reverse(objs)
		for _, c := range vector.Cases() {
			if m, v := resolve(t, z, c.Name, dns.StringToType[c.Type], wire.MaxTCP); v == Outside || dns.RcodeToString[m.Rcode] != c.Rcode {
				t.Errorf("%s %s: %s, not %s", c.Name, c.Type, dns.RcodeToString[m.Rcode], c.Rcode)
			}
		}
		for _, obj := range objs {
			apply(t, o, obj, false)
		}
		for _, c := range vector.Cases() {
			m, _ := resolve(t, z, c.Name, dns.StringToType[c.Type], wire.MaxTCP)
			if n := strings.Count(c.Name, "."); n > 4 && len(m.Answer) > 0 {
				t.Errorf("%s %s is left: %s", c.Name, c.Type, m)
			}
		}
		if len(o.table.namespaces)+len(o.table.reverse) != 0 {
			t.Errorf("left behind: %v %v", o.table.namespaces, o.table.reverse)
		}
	}
}

func TestTruncation(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "many"}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}}
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "many-1", Labels: map[string]string{discoveryv1.LabelServiceName: "many"}}}
	number, name := int32(80), "http"
	s.Ports = []discoveryv1.EndpointPort{{Port: &number, Name: &name}}
	for i := range 100 {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}).String()}})
	}
	z := testZone(t, svc, s)
	for _, c := range []struct {
		name           string
		qtype          uint16
		limit, answers int
		cut            bool
	}{
		{"many.default.svc.cluster.local.", dns.TypeA, 512, 29, true},
		{"many.default.svc.cluster.local.", dns.TypeA, 1232, 74, true},
		{"many.default.svc.cluster.local.", dns.TypeA, wire.MaxTCP, 100, false},
		{"_http._tcp.many.default.svc.cluster.local.", dns.TypeSRV, 512, 7, true},
		{"_http._tcp.many.default.svc.cluster.local.", dns.TypeSRV, wire.MaxTCP, 100, false},
	} {
		m, _ := resolve(t, z, c.name, c.qtype, c.limit)
		if len(m.Answer) != c.answers || m.Truncated != c.cut || len(m.Ns) > 0 {
			t.Errorf("%s in %d bytes: %d answers, truncated %v", c.name, c.limit, len(m.Answer), m.Truncated)
		}
	}
}

func TestAddressesRotate(t *testing.T) {
	z := testZone(t, vector.Objects()...)
	pkt, _ := new(dns.Msg).SetQuestion("db.default.svc.cluster.local.", dns.TypeA).Pack()
	var q wire.Query
	q.Parse(pkt)
	r, firsts := wire.NewReply(512), map[string]bool{}
	for turn := range 8 {
		r.Begin(&q, pkt, 512)
		z.Answer(&q, r, turn)
		var m dns.Msg
		if err := m.Unpack(r.Finish(&q)); err != nil || len(m.Answer) != 4 {
			t.Fatal(err, &m)
		}
		firsts[m.Answer[0].(*dns.A).A.String()] = true
	}
	if len(firsts) != 4 {
		t.Errorf("first addresses: %v", firsts)
	}
}

func TestAnswersAllocateNothing(t *testing.T) {
	z := testZone(t, vector.Objects()...)
	r := wire.NewReply(wire.MaxUDP)
	var q wire.Query
	for _, c := range vector.Cases() {
		if strings.Contains(strings.ToLower(c.Name), "arpa") || strings.Contains(c.Name, ".pod.") || strings.Contains(c.Name, "inner") || strings.HasPrefix(c.Name, "lo") {
			continue // reverse names, names of pods and aliases within the cluster may
		}
		pkt, _ := new(dns.Msg).SetQuestion(c.Name, dns.StringToType[c.Type]).Pack()
		if n := testing.AllocsPerRun(20, func() {
			q.Parse(pkt)
			r.Begin(&q, pkt, q.Limit(wire.MaxUDP))
			z.Answer(&q, r, 1)
			r.Finish(&q)
		}); n > 0 {
			t.Errorf("%s %s: %v allocations", c.Name, c.Type, n)
		}
	}
}

func BenchmarkAnswer(b *testing.B) {
	z := testZone(b, vector.Objects()...)
	for _, name := range []string{"web.default.svc.cluster.local.", "gone.default.svc.cluster.local.", "db-0.db.default.svc.cluster.local."} {
		b.Run(name, func(b *testing.B) {
			pkt, _ := new(dns.Msg).SetQuestion(name, dns.TypeA).SetEdns0(1232, false).Pack()
			var q wire.Query
			r := wire.NewReply(wire.MaxUDP)
			b.ReportAllocs()
			for b.Loop() {
				q.Parse(pkt)
				r.Begin(&q, pkt, q.Limit(wire.MaxUDP))
				z.Answer(&q, r, 1)
				r.Finish(&q)
			}
		})
	}
}

func TestEachNameAnswers(t *testing.T) {
	z, n := testZone(t, vector.Objects()...), 0
	z.Each(func(name Name) {
		n++
		m, v := resolve(t, z, wire.NameString(name.Wire), dns.TypeA, wire.MaxTCP)
		if v != Answered && !name.Alias || m.Rcode != 0 && !name.Alias || len(m.Answer)*recordA != len(name.V4) && !name.Alias {
			t.Errorf("%s: %v", wire.NameString(name.Wire), m)
		}
	})
	if n < 30 {
		t.Errorf("%d names", n)
	}
}
