package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/dns/vector"
)

const (
	web  = "web.default.svc.cluster.local."
	late = "late.fresh.svc.cluster.local."
)

// rcode is the kernel's answer in short, empty where it leaves the query.
func (n *node) rcode(name string) string {
	n.t.Helper()
	var m dns.Msg
	b := n.kernel(query(name, dns.TypeA), false)
	if b == nil {
		return ""
	}
	if err := m.Unpack(b); err != nil {
		n.t.Fatal(err)
	}
	if len(m.Answer) == 0 && m.Rcode == dns.RcodeSuccess {
		return "NODATA"
	}
	return dns.RcodeToString[m.Rcode]
}

func (n *node) want(what string, names map[string]string) {
	n.t.Helper()
	for name, want := range names {
		if got := n.rcode(name); got != want {
			n.t.Errorf("%s: %s: %q, not %q", what, name, got, want)
		}
	}
}

func clusterIP(namespace, name, ip string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}}}
}

func TestFollowsTheZone(t *testing.T) {
	n := newNode(t, vector.Objects()...)
	n.run()
	n.want("before", map[string]string{late: "NXDOMAIN", "fresh.svc.cluster.local.": "NXDOMAIN", "x." + late: "NXDOMAIN"})
	services := n.client.CoreV1().Services("fresh")
	if _, err := services.Create(t.Context(), clusterIP("fresh", "late", "10.96.1.1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.await("new name", func() bool { return n.rcode(late) == "NOERROR" })
	n.want("created", map[string]string{"fresh.svc.cluster.local.": "NODATA", "fresh.pod.cluster.local.": "NODATA", "x." + late: "", "x.fresh.svc.cluster.local.": "NXDOMAIN"})
	changed := clusterIP("fresh", "late", "10.96.1.1")
	changed.Spec.Type, changed.Spec.ExternalName, changed.Spec.ClusterIP, changed.Spec.ClusterIPs = corev1.ServiceTypeExternalName, "example.com", "", nil
	if _, err := services.Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.await("alias", func() bool { return n.rcode(late) == "" })
	if err := services.Delete(t.Context(), "late", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.await("end of a name", func() bool { return n.rcode(late) == "NXDOMAIN" })
	n.await("end of its namespace", func() bool { return n.rcode("fresh.svc.cluster.local.") == "NXDOMAIN" })
	if _, err := n.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "fresh"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.await("namespace", func() bool { return n.rcode("fresh.svc.cluster.local.") == "NODATA" })
	// A headless Service goes with its last endpoint.
	if err := n.client.DiscoveryV1().EndpointSlices("default").Delete(t.Context(), "eager-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.await("end of a headless Service", func() bool { return n.rcode("eager.default.svc.cluster.local.") == "NXDOMAIN" })
	n.want("headless", map[string]string{"10-244-0-31.eager.default.svc.cluster.local.": "NXDOMAIN", web: "NOERROR"})
}

// TestWorksWithoutTheProcess has the process go, things change, and the next one come.
func TestWorksWithoutTheProcess(t *testing.T) {
	n := newNode(t, vector.Objects()...)
	stop := n.run()
	was := map[string]string{web: "NOERROR", "WEB.default.svc.cluster.local.": "NOERROR", late: "NXDOMAIN", "example.com.default.svc.cluster.local.": "NXDOMAIN", "example.com.": ""}
	n.want("alive", was)
	stop()
	n.want("gone", was)
	if err := n.client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.client.CoreV1().Services("fresh").Create(t.Context(), clusterIP("fresh", "late", "10.96.1.1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.want("started", was)
	n.run()
	n.want("compared", map[string]string{web: "NXDOMAIN", late: "NOERROR", "dual.default.svc.cluster.local.": "NOERROR"})
}

func TestSwitches(t *testing.T) {
	n := newNode(t, vector.Objects()...)
	n.run()
	absent := "gone.default.svc.cluster.local."
	on := map[string]string{web: "NOERROR", absent: "NXDOMAIN"}
	for text, want := range map[string]map[string]string{
		"kernelAnswers: false":                                            {web: "", absent: ""},
		"rateLimit: {queriesPerSecond: 10}":                               {web: "", absent: ""},
		"acl: [{names: [example.com], action: deny}]":                     {web: "", absent: ""},
		"rewrite: [{name: a.example, to: web.default.svc.cluster.local}]": {web: "", absent: ""},
		"log: {every: 10}":                                                {web: "", absent: ""},
		"searchPath: true":                                                {web: "NOERROR", absent: ""},
		"ttl: 77":                                                         on,
	} {
		n.configure(text)
		n.want(text, want)
		for name := range on {
			n.compare(query(name, dns.TypeA), true)
		}
		n.configure("")
		n.want("after "+text, on)
	}
}

// TestPolicyForbids has the answers go the way of all packets that no policy allows.
func TestPolicyForbids(t *testing.T) {
	n := newNode(t, vector.Objects()...)
	n.run()
	const set = 7
	n.row(abi.MapControl, uint32(0), abi.Control{Isolation: 1, Epoch: 1})
	n.row(abi.MapEndpoint, abi.AddrFrom(pod), abi.Endpoint{Ifindex: 1, Mac: podMAC, Egress: set})
	run := func() uint32 {
		verdict, _, err := n.objects.Program(abi.ProgFromPod).Test(frame(query(web, dns.TypeA), false))
		if err != nil {
			t.Fatal(err)
		}
		return verdict
	}
	const drop = 2
	if got := run(); got != drop {
		t.Errorf("verdict %d, not drop", got)
	}
	n.row(abi.MapPolicy, abi.PolicyKey{Set: set, Peer: abi.PeerDNS}, abi.PolicyPorts(abi.PortsAll))
	if got := run(); got != redirect {
		t.Errorf("verdict %d of what is allowed", got)
	}
}

// TestRowsThatCannotBeWritten has the kernel say nothing until they are.
func TestRowsThatCannotBeWritten(t *testing.T) {
	n := newNode(t, vector.Objects()...)
	var failing atomic.Bool
	maps := bpfmap.Fake(func(op, table string) error {
		if failing.Load() && table == abi.MapRecord {
			return fmt.Errorf("%s: %w", op, errors.ErrUnsupported)
		}
		return nil
	})
	var err error
	if n.answers, err = New(maps, n.zone, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	n.maps = maps
	n.run()
	failing.Store(true)
	services := n.client.CoreV1().Services("fresh")
	if _, err := services.Create(t.Context(), clusterIP("fresh", "late", "10.96.1.1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	flags := func() uint32 {
		z, err := maps.Zone()
		if err != nil {
			t.Fatal(err)
		}
		return z.Flags
	}
	n.await("end of the kernel's answers", func() bool { return flags() == 0 })
	failing.Store(false)
	n.await("answers", func() bool { return flags() == uint32(abi.DNSAnswer|abi.DNSComplete) })
	key, _ := n.answers.key(strings.Split(strings.TrimSuffix(late, ".cluster.local."), ".")...)
	if row, ok, err := maps.Name(key); !ok || row.N4 != 1 || err != nil {
		t.Errorf("%+v %v %v", row, ok, err)
	}
}
