package kernel

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/miekg/dns"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/load"
	"github.com/skep-io/skep/dns/cluster"
	"github.com/skep-io/skep/dns/config"
	"github.com/skep-io/skep/dns/server"
	"github.com/skep-io/skep/dns/vector"
	"github.com/skep-io/skep/dns/wire"
)

// redirect is the verdict of what is sent on by the program.
const redirect = 7

// node is the kernel's side and the server's, with the same objects.
type node struct {
	t       testing.TB
	client  *fake.Clientset
	objects *load.Objects
	maps    *bpfmap.Maps
	zone    *cluster.Zone
	server  *server.Server
	ask     func([]byte, netip.Addr) []byte
	answers *Answers
}

// newNode loads the programs in maps of the test's own, and runs nothing yet.
func newNode(t testing.TB, objs ...runtime.Object) *node {
	t.Helper()
	dir := fmt.Sprintf("/sys/fs/bpf/skep-test-%d-%s", os.Getpid(), t.Name())
	t.Cleanup(func() {
		if err := load.Cleanup(dir); err != nil {
			t.Error(err)
		}
	})
	n := &node{t: t, client: fake.NewClientset(objs...)}
	var err error
	n.objects, err = load.Open(load.Config{Dir: dir, Router: router, Router6: router6,
		ClusterNetwork: netip.MustParsePrefix("10.244.0.0/16"), ClusterNetwork6: netip.MustParsePrefix("fd00:244::/48"),
		PodNetwork: netip.MustParsePrefix("10.244.0.0/24"), PodNetwork6: netip.MustParsePrefix("fd00:244::/64"),
		ServiceNetwork: netip.MustParsePrefix("10.96.0.0/16"), ServiceNetwork6: netip.MustParsePrefix("fd00:96::/112")})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { n.objects.Close() })
	if n.maps, err = bpfmap.Open(dir + "/maps"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.maps.Close)
	for _, a := range []netip.Addr{pod, pod6} {
		n.row(abi.MapEndpoint, abi.AddrFrom(a), abi.Endpoint{Ifindex: 1, Mac: podMAC})
	}
	for _, a := range []netip.Addr{router, router6} {
		n.row(abi.MapNode, abi.AddrFrom(a), abi.Node{Flags: abi.NodeLocal})
	}
	n.start()
	return n
}

func (n *node) row(name string, key, value any) {
	n.t.Helper()
	if err := n.objects.Map(name).Put(key, value); err != nil {
		n.t.Fatal(err)
	}
}

// start makes what a process makes when it starts, on the maps that are there.
func (n *node) start() {
	n.t.Helper()
	factory := informers.NewSharedInformerFactory(n.client, 0)
	objects, err := cluster.NewObjects(factory)
	if err != nil {
		n.t.Fatal(err)
	}
	if n.zone, err = cluster.NewZone(cluster.Config{Domain: vector.Domain, Objects: objects, Reverse: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}); err != nil {
		n.t.Fatal(err)
	}
	n.server = server.New(server.Config{Zone: n.zone, Logger: slog.New(slog.DiscardHandler)})
	n.ask = n.server.Direct()
	if n.answers, err = New(n.maps, n.zone, slog.New(slog.DiscardHandler)); err != nil {
		n.t.Fatal(err)
	}
	factory.Start(n.t.Context().Done())
}

// run keeps the kernel in step until the test, or stop, ends it.
func (n *node) run() (stop func()) {
	n.t.Helper()
	n.configure("")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.answers.Run(ctx) }()
	n.await("names in the kernel", func() bool {
		z, err := n.maps.Zone()
		return err == nil && z.Flags != 0 && n.zone.Synced() && n.following()
	})
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
		done <- nil
	}
	n.t.Cleanup(stop)
	return stop
}

func (n *node) following() bool {
	n.answers.mu.Lock()
	defer n.answers.mu.Unlock()
	return n.answers.following
}

func (n *node) await(what string, good func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !good(); {
		if time.Now().After(deadline) {
			n.t.Fatalf("no %s", what)
		}
		time.Sleep(time.Millisecond) // the informers tell nobody
	}
}

// kernel gives the kernel's answer to a query, nil if it leaves it to the server: then the packet is as it was.
func (n *node) kernel(query []byte, six bool) []byte {
	n.t.Helper()
	in := frame(query, six)
	opts := ebpf.RunOptions{Data: in, DataOut: make([]byte, 2048)}
	verdict, err := n.objects.Program(abi.ProgFromPod).Run(&opts)
	if err != nil {
		n.t.Fatal(err)
	}
	if verdict != redirect {
		if verdict != 0 || !bytes.Equal(opts.DataOut, in) {
			n.t.Fatalf("verdict %d for % x, which is left as % x", verdict, in, opts.DataOut)
		}
		return nil
	}
	return message(n.t, opts.DataOut, six)
}

func query(name string, qtype uint16) []byte {
	m := new(dns.Msg).SetQuestion(name, qtype)
	b, err := m.Pack()
	if err != nil {
		panic(err) // a table that is wrong
	}
	return b
}

// compare holds the kernel's answer against the server's and returns whether there was one.
func (n *node) compare(query []byte, six bool) bool {
	n.t.Helper()
	got := n.kernel(query, six)
	if got == nil {
		return false
	}
	want := n.ask(query, pod)
	if !bytes.Equal(ordered(got), ordered(want)) {
		n.t.Fatalf("query % x\nkernel % x\nserver % x", query, got, want)
	}
	return true
}

// ordered sorts the addresses of an answer, whose records are then all of one size.
func ordered(msg []byte) []byte {
	if len(msg) < wire.HeaderLen || msg[7] < 2 {
		return msg
	}
	msg = bytes.Clone(msg)
	at, _ := wire.SkipName(msg, wire.HeaderLen)
	at += 4
	size := 12 + int(msg[at+11])
	var records [][]byte
	for i := range int(msg[7]) {
		records = append(records, bytes.Clone(msg[at+i*size:at+(i+1)*size]))
	}
	slices.SortFunc(records, bytes.Compare)
	copy(msg[at:], bytes.Join(records, nil))
	return msg
}

// mine says whether the kernel must answer the case.
func mine(c vector.Case) bool {
	name := strings.ToLower(c.Name)
	for _, r := range c.Answer {
		if strings.Contains(r, " CNAME ") {
			return false
		}
	}
	switch {
	case c.Type != "A" && c.Type != "AAAA" && c.Type != "HTTPS" && c.Type != "MX",
		strings.HasSuffix(name, ".arpa."), name == "ns.dns.cluster.local.", name == "cluster.local." && c.Type == "MX":
		return false
	case strings.HasSuffix(name, ".pod.cluster.local."):
		return strings.Count(name, ".") == 4 || c.Rcode == "NXDOMAIN" && (strings.Contains(name, "nowhere") || strings.Count(name, ".") > 5)
	case strings.HasSuffix(name, ".svc.cluster.local."):
		// Below a Service only what a headless one's endpoints have.
		return strings.Count(name, ".") < 6 || strings.Count(name, ".") > 7 || len(c.Answer) > 0 && strings.Contains(name, ".db") && name[0] != '_' ||
			c.Rcode == "NXDOMAIN" && strings.HasPrefix(name, "example.com.")
	}
	return true
}

func TestCases(t *testing.T) {
	n := newNode(t, vector.Objects()...)
	n.run()
	for _, c := range vector.Cases() {
		for _, six := range []bool{false, true} {
			for _, edns := range []bool{false, true} {
				m := new(dns.Msg).SetQuestion(c.Name, dns.StringToType[c.Type])
				if edns {
					m.SetEdns0(4096, true)
				}
				q, err := m.Pack()
				if err != nil {
					t.Fatal(err)
				}
				if got := n.compare(q, six); mine(c) && !got {
					t.Errorf("%s %s, IPv6 %v, EDNS %v: left to the server", c.Name, c.Type, six, edns)
				} else if !got {
					continue
				}
				if err := m.Unpack(n.kernel(q, six)); err != nil {
					t.Error(err)
				}
				for _, problem := range c.Check(m) {
					t.Errorf("%s %s: %s", c.Name, c.Type, problem)
				}
			}
		}
	}
	for _, e := range vector.Errors() {
		if n.compare(e.Packet, false) && e.Rcode != "NOERROR" {
			t.Errorf("%s is answered by the kernel", e.What)
		}
	}
	for _, name := range vector.Outside {
		if n.kernel(query(name, dns.TypeA), false) != nil {
			t.Errorf("%s is answered by the kernel", name)
		}
	}
}

func TestNothingBeforeTheClusterIsKnown(t *testing.T) {
	n := newNode(t, vector.Objects()...)
	for _, name := range []string{"web.default.svc.cluster.local.", "gone.default.svc.cluster.local."} {
		if n.kernel(query(name, dns.TypeA), false) != nil {
			t.Errorf("%s is answered", name)
		}
	}
}

// configure does what the watcher of the ConfigMap does.
func (n *node) configure(text string) {
	n.t.Helper()
	c, err := config.Decode(text)
	if err != nil {
		n.t.Fatal(err)
	}
	n.answers.Apply(c, func() { n.server.Apply(c) })
}
