package kernel

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/dns/vector"
	"github.com/skep-io/skep/dns/wire"
)

// headless is a Service with so many endpoints, whose host names begin with its own.
func headless(name string, n int) []runtime.Object {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.ClusterIP = corev1.ClusterIPNone
	objs := []runtime.Object{s}
	for family, prefix := range map[discoveryv1.AddressType]string{discoveryv1.AddressTypeIPv4: "10.244.7.", discoveryv1.AddressTypeIPv6: "fd00:244::7:"} {
		slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name + strings.ToLower(string(family)),
			Labels: map[string]string{discoveryv1.LabelServiceName: name}}, AddressType: family}
		for i := range n {
			host := name + "-" + strconv.Itoa(i)
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{prefix + strconv.Itoa(1+i)}, Hostname: &host})
		}
		objs = append(objs, slice)
	}
	return objs
}

// long is a label of the greatest length.
var long = strings.Repeat("x", 63)

// words make up names that are near to existing ones.
var words = []string{"svc", "pod", "dns", "ns", "dns-version", "default", "kube-system", "bare", "unseen", "nowhere", "web", "db", "db-0", "dbdual", "dual", "six",
	"ext", "inner", "lost", "many", "many-3", "too", "too-1", "empty", "literal", "early", "kube-dns", "_http", "_tcp", "http", "tcp", "10-1-2-3", "10-244-0-3",
	"fd00--1", "example", "com", "cluster", "local", "a", "x", long, strings.Repeat("y", 40), "svc" + long[:20], "\\000", "\\255z", "in-addr", "arpa"}

// ends are those that names often have.
var ends = []string{"", ".cluster.local.", ".svc.cluster.local.", ".default.svc.cluster.local.", ".default.pod.cluster.local.", ".web.default.svc.cluster.local.",
	".db.default.svc.cluster.local.", ".xcluster.local.", ".local."}

func anyName(r *rand.Rand) string {
	if r.IntN(4) == 0 {
		cases := vector.Cases()
		return cases[r.IntN(len(cases))].Name
	}
	var labels []string
	for range r.IntN(6) {
		labels = append(labels, words[r.IntN(len(words))])
	}
	name := strings.TrimPrefix(strings.Join(labels, ".")+ends[r.IntN(len(ends))], ".")
	if name == "" || len(name) > 240 {
		return "cluster.local."
	}
	return dns.Fqdn(name)
}

// anyCase spells a name at random.
func anyCase(r *rand.Rand, name string) string {
	b := []byte(name)
	for i, c := range b {
		if c >= 'a' && c <= 'z' && r.IntN(3) == 0 {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

var types = []uint16{dns.TypeA, dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeTXT, dns.TypeNS, dns.TypeSOA, dns.TypeMX,
	dns.TypeHTTPS, dns.TypeCNAME, dns.TypeANY, dns.TypeAXFR, 0, 248, 249, 256, 65535, dns.TypeOPT}

// anyQuery is a query that may be odd; plain says that a client could have sent it.
func anyQuery(r *rand.Rand) (pkt []byte, plain bool) {
	m := new(dns.Msg).SetQuestion(anyCase(r, anyName(r)), types[r.IntN(len(types))])
	m.Id = uint16(r.Uint32())
	m.RecursionDesired, m.AuthenticatedData, m.CheckingDisabled = r.IntN(2) == 0, r.IntN(4) == 0, r.IntN(4) == 0
	plain = true
	switch r.IntN(6) {
	case 0, 1:
		m.SetEdns0([]uint16{0, 300, 512, 600, 1232, 4096, 65535}[r.IntN(7)], r.IntN(2) == 0)
	case 2:
		plain = false
		m.SetEdns0(1232, false)
		switch r.IntN(3) {
		case 0:
			m.IsEdns0().SetVersion(uint8(r.IntN(3)))
		case 1:
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
		default:
			m.IsEdns0().SetExtendedRcode(uint16(r.IntN(4096)))
		}
	}
	b, err := m.Pack()
	if err != nil {
		return []byte{0}, false
	}
	switch r.IntN(12) {
	case 0:
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		return b, false
	case 1:
		return b[:r.IntN(len(b)+1)], false
	case 2:
		return append(b, make([]byte, r.IntN(20))...), false
	case 3:
		binary.BigEndian.PutUint16(b[2:], uint16(r.Uint32()))
		return b, false
	case 4:
		b[4+r.IntN(8)] = byte(r.IntN(3))
		return b, false
	}
	return b, plain
}

// TestKernelAgreesWithServer asks both what comes into its mind: what the kernel answers, the server answers alike, and what the kernel
// would answer by its rows, it answers. SKEP_DNS_QUERIES is how often.
func TestKernelAgreesWithServer(t *testing.T) {
	count := 20000
	if text := os.Getenv("SKEP_DNS_QUERIES"); text != "" {
		var err error
		if count, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	n := newNode(t, append(append(vector.Objects(), headless("many", 16)...), headless("too", 17)...)...)
	n.run()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	answered, plainly := 0, 0
	for i := range count {
		pkt, plain := anyQuery(r)
		six := r.IntN(2) == 0
		got := n.compare(pkt, six)
		if got {
			answered++
		}
		if !plain {
			continue
		}
		plainly++
		var q wire.Query
		if status := q.Parse(pkt); status == wire.Valid && n.answers.Answers(&q, pod) != got {
			t.Fatalf("seed %d, query %d: % x: answered %v, not as the rows say", seed, i, pkt, got)
		}
	}
	t.Logf("seed %d: %d queries, %d of them plain, %d answered by the kernel", seed, count, plainly, answered)
	if answered < count/6 {
		t.Errorf("the kernel answered %d of %d queries", answered, count)
	}
	counts, err := n.maps.Lookups()
	if err != nil {
		t.Fatal(err)
	}
	sum := uint64(0)
	for _, c := range counts[:abi.DNSReasons] {
		sum += c
	}
	if sum != uint64(answered) {
		t.Errorf("%d answers are counted, %d were given", sum, answered)
	}
}
