package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// resolverImage holds the resolvers of resolver/: each reads the resolv.conf that the node gives its pods.
const resolverImage = "skep.dev/resolvers:e2e"

// resolvers are the commands in the image. They print alike, see resolver/c/resolve.c.
var resolvers = map[string][]string{
	"glibc": {"/resolve-glibc"},
	"musl":  {"/resolve-musl"},
	"go":    {"/resolve-go"},
	"node":  {"/node", "/resolve.js"},
}

func buildResolvers(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	build := func(name string, args ...string) string {
		out := filepath.Join(dir, name)
		cmd := exec.Command(args[0], append(args[1:], "-o", out)...)
		cmd.Args = append(cmd.Args, map[bool]string{true: "./resolver", false: "resolver/c/resolve.c"}[args[0] == "go"])
		if args[0] == "gcc" {
			cmd.Args = append(cmd.Args, "-lresolv")
		}
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the resolver of %s (install what is missing with test/deps test): %v: %s", name, err, text)
		}
		return out
	}
	files := map[string]string{
		"/resolve-glibc": build("glibc", "gcc", "-O2"),
		"/resolve-musl":  build("musl", "musl-gcc", "-O2", "-static"),
		"/resolve-go":    build("go", "go", "build"),
		"/resolve.js":    "resolver/resolve.js",
		"/bin/busybox":   "/bin/busybox",
		"/node":          "/usr/bin/node",
	}
	// Debian's Node reads parts of itself from here.
	for _, module := range []string{"acorn", "acorn-walk", "cjs-module-lexer", "undici"} {
		_ = filepath.WalkDir("/usr/share/nodejs/"+module, func(file string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files[file] = file
			}
			return nil
		})
	}
	image(t, resolverImage, files)
}

// world is what there is to look up.
type world struct {
	ns       string
	web      []string // addresses of Service web, IPv4 and IPv6
	four     []string // of Service four, IPv4 alone
	external string   // a domain whose names only the upstream server knows
}

// Addresses of www and big in the external domain, and of endpoints.
const (
	www4, www6 = "192.0.2.80", "2001:db8::80"
	peerNet    = "192.0.2."
)

// many endpoints do not fit into 512 bytes, the most that a client without EDNS takes over UDP.
const many = 40

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{ns: namespace(t), external: "example.test"}
	upstream(t, w.external)
	dual, single := corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack
	http := []corev1.ServicePort{{Name: "http", Port: 80}}
	w.web = makeService(t, w.ns, "web", corev1.ServiceSpec{IPFamilyPolicy: &dual, Ports: http})
	w.four = makeService(t, w.ns, "four", corev1.ServiceSpec{IPFamilyPolicy: &single, Ports: http})
	makeService(t, w.ns, "peers", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: http})
	makeService(t, w.ns, "empty", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: http})
	makeService(t, w.ns, "big", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: http})
	makeService(t, w.ns, "outside", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www." + w.external})
	makeService(t, w.ns, "inside", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "four." + w.ns + ".svc.cluster.local"})
	makeEndpoints(t, w.ns, "peers", "one", "two", "three")
	makeEndpoints(t, w.ns, "big", make([]string, many)...)
	return w
}

func makeService(t *testing.T, ns, name string, spec corev1.ServiceSpec) []string {
	t.Helper()
	svc, err := shared.client.CoreV1().Services(ns).Create(context.Background(),
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return svc.Spec.ClusterIPs
}

// makeEndpoints gives a Service an endpoint for each host name; an empty one has none.
func makeEndpoints(t *testing.T, ns, service string, hosts ...string) {
	t.Helper()
	name, port := "http", int32(8080)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}
	for i, h := range hosts {
		e := discoveryv1.Endpoint{Addresses: []string{peerNet + strconv.Itoa(i+1)}}
		if h != "" {
			e.Hostname = &h
		}
		slice.Endpoints = append(slice.Endpoints, e)
	}
	if _, err := shared.client.DiscoveryV1().EndpointSlices(ns).Create(context.Background(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// upstream is a server of the domain in this process, which knows no other name, and the only one that the node's DNS asks.
func upstream(t *testing.T, domain string) {
	t.Helper()
	var conn net.PacketConn
	l, err := net.Listen("tcp4", testLocal+":0")
	if err == nil {
		conn, err = net.ListenPacket("udp4", l.Addr().String())
	}
	if err != nil {
		t.Fatal(err)
	}
	serve := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		header := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 60}
		switch {
		case !strings.EqualFold(q.Question[0].Name, "www."+domain+"."):
			m.Rcode = dns.RcodeNameError
		case header.Rrtype == dns.TypeA:
			m.Answer = []dns.RR{&dns.A{Hdr: header, A: net.ParseIP(www4)}}
		case header.Rrtype == dns.TypeAAAA:
			m.Answer = []dns.RR{&dns.AAAA{Hdr: header, AAAA: net.ParseIP(www6)}}
		}
		_ = w.WriteMsg(m) // a server that is not asked again notices by itself
	})
	for _, s := range []*dns.Server{{PacketConn: conn, Handler: serve}, {Listener: l, Handler: serve}} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	maps := shared.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "skep-dns"}, Data: map[string]string{
		"config": fmt.Sprintf("upstream: {servers: [%q]}", l.Addr())}}
	if _, err := maps.Create(context.Background(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := maps.Delete(context.Background(), cm.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// lookups are the names with their addresses, none for a name without. Every resolver must come to the same.
func (w world) lookups() map[string][]string {
	full := w.ns + ".svc.cluster.local"
	www := []string{www4, www6}
	peers := []string{peerNet + "1", peerNet + "2", peerNet + "3"}
	return map[string][]string{
		"web":                             w.web,
		"web." + w.ns:                     w.web,
		"web." + w.ns + ".svc":            w.web,
		"web." + full:                     w.web,
		"web." + full + ".":               w.web,
		"WeB." + strings.ToUpper(full):    w.web,
		"four":                            w.four,
		"four." + full + ".":              w.four,
		"peers":                           peers,
		"two.peers":                       {peerNet + "2"},
		"three.peers." + full:             {peerNet + "3"},
		"empty":                           nil,
		"outside":                         www,
		"inside":                          w.four,
		"www." + w.external:               www,
		"www." + w.external + ".":         www,
		"Www.Example.TEST":                www,
		"nobody." + w.external:            nil,
		"no-such-service":                 nil,
		"no-such-service." + full + ".":   nil,
		"web.no-such-namespace":           nil,
		"10-1-2-3." + w.ns + ".pod":       {"10.1.2.3"},
		"kubernetes.default.no-such-zone": nil,
	}
}

// TestResolvers holds that the resolvers which programs bring along find the same.
func TestResolvers(t *testing.T) {
	buildResolvers(t)
	w := newWorld(t)
	for name := range resolvers {
		resolverPod(t, w.ns, name)
	}
	resolverPod(t, w.ns, "busybox")
	for name, command := range resolvers {
		t.Run(name, func(t *testing.T) {
			run := func(args ...string) string {
				return must(t)(shared.skep(slices.Concat([]string{"exec", "-n", w.ns, name, "--"}, command, args)...))
			}
			awaitUpstream(t, func() string { return run("names", "www."+w.external+".") })
			checkNames(t, w, run)
			checkBig(t, name, run)
			checkRecords(t, w, run)
			for _, load := range []struct {
				name  string
				times int
			}{{"web", 10000}, {"www." + w.external, 1000}} {
				checkPairs(t, run("pairs", strconv.Itoa(load.times), load.name))
			}
		})
	}
	t.Run("busybox", func(t *testing.T) { checkBusybox(t, w) })
}

func resolverPod(t *testing.T, ns, name string) {
	t.Helper()
	no, grace := false, int64(0)
	_, err := shared.client.CoreV1().Pods(ns).Create(context.Background(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{AutomountServiceAccountToken: &no, EnableServiceLinks: &no, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "main", Image: resolverImage, ImagePullPolicy: corev1.PullNever, Command: []string{"/bin/busybox", "sleep", "3600"}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	must(t)(shared.skep("wait", "-n", ns, "--for=condition=Ready", "pod/"+name, "--timeout=30s"))
}

// awaitUpstream looks up until the node has taken the configuration.
func awaitUpstream(t *testing.T, lookup func() string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(lookup(), www4); {
		if time.Now().After(deadline) {
			t.Fatalf("the upstream server is not asked: %s", lookup())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func checkNames(t *testing.T, w world, run func(...string) string) {
	t.Helper()
	args, want := []string{"names"}, map[string]string{}
	for name, addrs := range w.lookups() {
		args = append(args, name)
		var v4, v6 []string
		for _, a := range addrs {
			if strings.Contains(a, ":") {
				v6 = append(v6, a)
			} else {
				v4 = append(v4, a)
			}
		}
		want["ip "+name], want["ip4 "+name], want["ip6 "+name] = joined(addrs), joined(v4), joined(v6)
	}
	got := map[string]string{}
	for line := range strings.Lines(run(args...)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			t.Fatalf("the resolver printed %q", line)
		}
		got[fields[0]+" "+fields[1]] = fields[2]
	}
	for key, w := range want {
		if got[key] != w {
			t.Errorf("%s: %s, want %s", key, got[key], w)
		}
	}
}

func joined(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return strings.Join(list, ",")
}

// checkBig looks up more addresses than fit: who knows TCP, or EDNS, gets them all; musl before 1.2.4 what fits.
func checkBig(t *testing.T, resolver string, run func(...string) string) {
	t.Helper()
	fields := strings.Fields(run("names", "big"))
	n := strings.Count(fields[2], ",") + 1
	if !strings.HasPrefix(fields[2], peerNet) || n != many && (resolver != "musl" || n < 20) {
		t.Errorf("%d addresses of a name with %d: %v", n, many, fields[:3])
	}
}

func checkRecords(t *testing.T, w world, run func(...string) string) {
	t.Helper()
	full := "web." + w.ns + ".svc.cluster.local"
	name := "_http._tcp." + full
	wants := map[string]string{
		run("srv", name):             "srv " + name + " " + full + ":80",
		run("srv", "_no._tcp."+full): "srv _no._tcp." + full + " none",
		run("ptr", w.web[0]):         "ptr " + w.web[0] + " " + full,
		run("ptr", w.web[1]):         "ptr " + w.web[1] + " " + full,
		run("ptr", "10.97.250.250"):  "ptr 10.97.250.250 none",
		run("srv", "_http._tcp."+"peers."+w.ns+".svc.cluster.local"): fmt.Sprintf("srv _http._tcp.peers.%[1]s.svc.cluster.local one.peers.%[1]s.svc.cluster.local:8080,"+
			"three.peers.%[1]s.svc.cluster.local:8080,two.peers.%[1]s.svc.cluster.local:8080", w.ns),
	}
	for got, want := range wants {
		if got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// checkPairs fails where a look-up of A and AAAA failed or stalled: resolvers ask again after 2.5 or 5 s.
func checkPairs(t *testing.T, line string) {
	t.Helper()
	var times, failed, slow, longest int
	if _, err := fmt.Sscanf(line, "pairs %d %d %d %d", &times, &failed, &slow, &longest); err != nil {
		t.Fatalf("%v: %q", err, line)
	}
	if failed > 0 || slow > 0 {
		t.Errorf("of %d pairs, %d failed and %d took more than a second, the longest %d us", times, failed, slow, longest)
	}
	t.Logf("%d pairs, the longest %d us", times, longest)
}

// checkBusybox asks with its own resolver, nslookup: it walks the search list for names without dots alone, and asks for A and AAAA.
func checkBusybox(t *testing.T, w world) {
	t.Helper()
	full := ".svc.cluster.local"
	for name, want := range map[string][]string{
		"web." + w.ns + full:          w.web,
		"four." + w.ns + full + ".":   w.four,
		"www." + w.external:           {www4, www6},
		"no-such-name." + w.ns + full: nil,
	} {
		out, err := shared.skep("exec", "-n", w.ns, "busybox", "--", "/bin/busybox", "nslookup", name)
		var got []string
		_, answer, _ := strings.Cut(out, "\n\n") // the server's own address comes first
		for line := range strings.Lines(answer) {
			if _, addr, ok := strings.Cut(strings.TrimSpace(line), "Address: "); ok {
				got = append(got, addr)
			}
		}
		if joined(got) != joined(want) || (err == nil) != (want != nil) {
			t.Errorf("nslookup %s: %s (%v), want %s\n%s", name, joined(got), err, joined(want), out)
		}
	}
}
