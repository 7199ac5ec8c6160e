package datapath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skep-io/skep/datapath/desired"
	skepnetns "github.com/skep-io/skep/datapath/netns"
	"github.com/skep-io/skep/datapath/podnet"
)

// inside is the variable that holds the cgroup of the tests, in the process that runs them.
const inside = "SKEP_TEST_IN_NAMESPACE"

// TestMain runs the tests in namespaces and a cgroup of their own, so that their programs see no process of this machine.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cgroup := filepath.Join(cgroupRoot(), fmt.Sprintf("skep-datapath-test-%d", os.Getpid()))
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root and a cgroup2 hierarchy:", err)
		os.Exit(1)
	}
	dir, err := os.Open(cgroup)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+cgroup)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, UseCgroupFD: true, CgroupFD: int(dir.Fd()),
	}
	err = cmd.Run()
	dir.Close()
	if err := os.Remove(cgroup); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// exchange connects, sends a datagram if that is what it takes, and returns the reply.
func exchange(network, to string) ([]byte, error) {
	c, err := net.DialTimeout(network, to, 2*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(network, "udp") {
		return io.ReadAll(c)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return nil, err
	}
	b := make([]byte, 100)
	size, err := c.Read(b)
	return b[:size], err
}

// cgroupRoot is where the cgroup2 hierarchy is mounted.
func cgroupRoot() string {
	if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.procs"); err == nil {
		return "/sys/fs/cgroup/unified"
	}
	return "/sys/fs/cgroup"
}

// node is a network under test with its API.
type node struct {
	*Datapath
	cfg    Config
	client *fake.Clientset
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// startNode starts the network of a node in the namespace of the test process.
func startNode(t testing.TB) *node {
	t.Helper()
	n := &node{client: fake.NewClientset()}
	bpffs := t.TempDir()
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(bpffs, unix.MNT_DETACH) })
	n.cfg = Config{
		NodeName:     "node-a",
		NodeIPs:      []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		PodCIDRs:     prefixes("10.244.7.0/24", "fd00:10:244:7::/64"),
		ClusterCIDRs: prefixes("10.244.0.0/16", "fd00:10:244::/48"),
		ServiceCIDRs: prefixes("10.97.0.0/16", "fd00:10:97::/112"),
		DNS:          map[netip.Addr]netip.AddrPort{netip.MustParseAddr("10.97.0.10"): netip.MustParseAddrPort("10.244.7.1:53")},
		BPFDir:       filepath.Join(bpffs, "skep"),
		CgroupRoot:   os.Getenv("SKEP_TEST_IN_NAMESPACE"),
		RunDir:       t.TempDir(),
		Logger:       slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	addOutside(t)
	n.start(t)
	t.Cleanup(func() {
		n.Close()
		for range 2 {
			if err := Cleanup(n.cfg); err != nil {
				t.Error(err)
			}
		}
	})
	return n
}

// start starts the network again, as a new process would.
func (n *node) start(t testing.TB) {
	t.Helper()
	n.cfg.Informers = informers.NewSharedInformerFactory(n.client, 0)
	n.cfg.Metrics = prometheus.NewRegistry()
	d, err := Start(context.Background(), n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Datapath = d
	select {
	case <-d.Synced():
	case <-time.After(10 * time.Second):
		t.Fatal("not synced")
	}
}

// outside is a client beyond the node's uplink; its namespace is named by the file. Its processes are in the cgroup whose
// sockets are translated, as those of a sandbox that is not the node's are.
var outside *os.File

// addOutside joins a namespace to the node by a veth pair: 192.0.2.1 is the node, 192.0.2.9 the client.
func addOutside(t testing.TB) {
	t.Helper()
	in(t, nil, func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		var err error
		outside, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = "out0", netlink.NsFd(int(outside.Fd()))
	must(t, netlink.LinkAdd(veth))
	t.Cleanup(func() {
		_ = netlink.LinkDel(veth)
		outside.Close()
	})
	address(t, "up0", "192.0.2.1/24")
	in(t, outside, func() error { return configure("out0", "192.0.2.9/24") }, func() error {
		services := &net.IPNet{IP: net.IPv4(10, 97, 0, 0), Mask: net.CIDRMask(16, 32)}
		return netlink.RouteReplace(&netlink.Route{Dst: services, Gw: net.IPv4(192, 0, 2, 1)})
	})
}

func address(t testing.TB, device, cidr string) {
	t.Helper()
	must(t, configure(device, cidr))
}

func configure(device, cidr string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrReplace(link, addr), netlink.LinkSetUp(link))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// in runs the functions on one thread inside a network namespace; nil means the node's. The thread is not used again.
func in(t testing.TB, ns *os.File, fns ...func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if ns != nil {
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				done <- err
				return
			}
		}
		for _, fn := range fns {
			if err := fn(); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	must(t, <-done)
}

// pod is an attached pod that answers on port 8080, TCP and UDP, with its name and who asked.
type pod struct {
	name    string
	address netip.Addr
	ns      *os.File
}

func (n *node) addPod(t testing.TB, name string) pod {
	t.Helper()
	a, err := n.Attach(t.Context(), podnet.Pod{UID: "uid-" + name, Namespace: "default", Name: name, Identity: desired.Identity{Namespace: "default"}})
	must(t, err)
	ns, err := os.Open(a.NetNS)
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	p := pod{name, a.IPs[0], ns}
	in(t, ns, func() error {
		tcp, err := net.Listen("tcp4", ":8080")
		if err != nil {
			return err
		}
		udp, err := net.ListenPacket("udp4", ":8080")
		if err != nil {
			return err
		}
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		go serveTCP(tcp, name)
		go serveUDP(udp, name)
		return nil
	})
	return p
}

func serveTCP(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintf(c, "%s %s", name, c.RemoteAddr())
		c.Close()
	}
}

func serveUDP(l net.PacketConn, name string) {
	b := make([]byte, 100)
	for {
		_, from, err := l.ReadFrom(b)
		if err != nil {
			return
		}
		fmt.Fprintf(answer{l, from}, "%s %s", name, from)
	}
}

// answer writes datagrams to one address.
type answer struct {
	net.PacketConn
	to net.Addr
}

func (a answer) Write(b []byte) (int, error) { return a.WriteTo(b, a.to) }

// ask connects from a namespace (nil: the node's own) and returns who answered and whom it saw.
func ask(t testing.TB, from *os.File, network, to string) (name string, saw netip.Addr, err error) {
	t.Helper()
	var reply []byte
	if from == outside && from != nil && !namespacesTold(t) {
		move(t, cgroupRoot())
		defer move(t, os.Getenv(inside))
	}
	in(t, from, func() error {
		reply, err = exchange(network, to)
		return nil
	})
	if err != nil {
		return "", saw, err
	}
	who, peer, ok := strings.Cut(string(reply), " ")
	if !ok {
		return "", saw, fmt.Errorf("reply %q", reply)
	}
	return who, netip.MustParseAddrPort(peer).Addr(), nil
}

// namespacesTold is whether the kernel tells namespaces apart (from 5.14). Where not, sockets of every namespace below the
// cgroup are translated: a client outside must be beyond it, and the node must have the initial namespace to have a loopback.
func namespacesTold(t testing.TB) bool {
	t.Helper()
	cookie, err := skepnetns.Cookie()
	must(t, err)
	return cookie != 0
}

// move puts the test into a cgroup.
func move(t testing.TB, cgroup string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte("0"), 0))
}

// assertAnswer expects one of the pods to answer.
func assertAnswer(t testing.TB, from *os.File, network, to string, pods ...pod) netip.Addr {
	t.Helper()
	name, saw, err := ask(t, from, network, to)
	if err != nil {
		t.Errorf("%s %s: %v", network, to, err)
		return saw
	}
	for _, p := range pods {
		if p.name == name {
			return saw
		}
	}
	t.Errorf("%s %s: %s answered", network, to, name)
	return saw
}

// addService creates a NodePort Service over the pods and waits until the kernel has it.
func (n *node) addService(t testing.TB, name, clusterIP string, nodePort int32, pods ...pod) {
	t.Helper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: clusterIP},
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		portName, target := strings.ToLower(string(protocol)), int32(8080)
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: portName, Port: 80, NodePort: nodePort, Protocol: protocol})
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &portName, Port: &target, Protocol: &protocol})
	}
	for _, p := range pods {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{p.address.String()}})
	}
	_, err := n.client.CoreV1().Services("default").Create(t.Context(), svc, metav1.CreateOptions{})
	must(t, err)
	_, err = n.client.DiscoveryV1().EndpointSlices("default").Create(t.Context(), slice, metav1.CreateOptions{})
	must(t, err)
	n.awaitDump(t, func(dump string) bool {
		return strings.Contains(dump, "frontend "+clusterIP+":80/TCP") && (len(pods) == 0 || strings.Contains(dump, pods[0].address.String()+":8080"))
	})
}

// awaitDump waits until the kernel's tables satisfy the condition. Maps have no events, so it looks again and again.
func (n *node) awaitDump(t testing.TB, ok func(string) bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		dump, err := n.Maps().Dump()
		must(t, err)
		if ok(dump) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("tables are:\n%s", dump)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestPodsAndServices(t *testing.T) {
	n := startNode(t)
	a, b := n.addPod(t, "a"), n.addPod(t, "b")
	n.addService(t, "both", "10.97.0.7", 30080, a, b)
	n.addService(t, "self", "10.97.0.8", 30081, a)
	n.addService(t, "none", "10.97.0.9", 30082)

	for _, network := range []string{"tcp4", "udp4"} {
		t.Run(network, func(t *testing.T) {
			assertAnswer(t, nil, network, a.address.String()+":8080", a)
			if saw := assertAnswer(t, b.ns, network, a.address.String()+":8080", a); saw != b.address {
				t.Errorf("pod a saw pod b as %s", saw)
			}
			assertAnswer(t, nil, network, "10.97.0.7:80", a, b)
			assertAnswer(t, b.ns, network, "10.97.0.7:80", a, b)
			assertAnswer(t, a.ns, network, "10.97.0.8:80", a)
			if namespacesTold(t) {
				assertAnswer(t, nil, network, "127.0.0.1:30080", a, b)
			}
			assertAnswer(t, nil, network, "192.0.2.1:30080", a, b)
			assertAnswer(t, b.ns, network, "192.0.2.1:30080", a, b)
			assertAnswer(t, a.ns, network, "192.0.2.1:30081", a)
			assertAnswer(t, outside, network, "192.0.2.1:30080", a, b)
			assertAnswer(t, outside, network, "10.97.0.7:80", a, b)
		})
	}
	for from, to := range map[*os.File]string{nil: "10.97.0.9:80", a.ns: "10.97.0.9:80", outside: "192.0.2.1:30082"} {
		start := time.Now()
		_, _, err := ask(t, from, "tcp4", to)
		if err == nil || !strings.Contains(err.Error(), "connection refused") || time.Since(start) > time.Second {
			t.Errorf("a Service without endpoints at %s: %v", to, err)
		}
	}
}

func TestMasquerade(t *testing.T) {
	n := startNode(t)
	a := n.addPod(t, "a")
	in(t, outside, func() error {
		l, err := net.Listen("tcp4", "192.0.2.9:8080")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go serveTCP(l, "outside")
		return nil
	})
	if saw := assertAnswer(t, a.ns, "tcp4", "192.0.2.9:8080", pod{name: "outside"}); saw != n.cfg.NodeIPs[0] {
		t.Errorf("the outside saw the pod as %s", saw)
	}
}

// TestFilters attaches the uplink's programs the way that kernels before 6.6 need it, and takes them off again.
func TestFilters(t *testing.T) {
	n := startNode(t)
	a := n.addPod(t, "a")
	n.addService(t, "one", "10.97.0.7", 30080, a)
	link, err := netlink.LinkByName("up0")
	must(t, err)
	index := link.Attrs().Index
	must(t, programs{n.objects}.DetachNetdev("up0", index))
	if _, _, err := ask(t, outside, "tcp4", "192.0.2.1:30080"); err == nil {
		t.Fatal("a node port answers without programs")
	}
	for range 2 {
		must(t, programs{n.objects}.filter(index, netdevPrograms))
	}
	assertAnswer(t, outside, "tcp4", "192.0.2.1:30080", a)
	for range 2 {
		must(t, podnet.DetachFilters(index))
	}
	qdiscs, err := netlink.QdiscList(link)
	must(t, err)
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			t.Error("clsact is left")
		}
	}
}

func TestRestart(t *testing.T) {
	n := startNode(t)
	a := n.addPod(t, "a")
	n.addService(t, "both", "10.97.0.7", 30080, a)
	before, err := n.Maps().Dump()
	must(t, err)
	n.Close()

	// Nobody is there, and the network goes on.
	assertAnswer(t, nil, "tcp4", "10.97.0.7:80", a)
	assertAnswer(t, outside, "tcp4", "192.0.2.1:30080", a)

	n.start(t)
	after, err := n.Maps().Dump()
	must(t, err)
	if before != after {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
	must(t, n.Retain(t.Context(), []string{"uid-a"}))
	assertAnswer(t, nil, "tcp4", "10.97.0.7:80", a)
	must(t, n.Detach(t.Context(), "uid-a"))
	n.awaitDump(t, func(dump string) bool { return !strings.Contains(dump, "endpoint") })
}

func TestStartRefusesBadConfig(t *testing.T) {
	good := Config{
		NodeName: "a", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		PodCIDRs: prefixes("fd00:1::/64", "10.244.0.0/24"), ClusterCIDRs: prefixes("10.244.0.0/16", "fd00:1::/56"),
		ServiceCIDRs: prefixes("10.97.0.0/16"), BPFDir: "/b", CgroupRoot: "/c", RunDir: "/r",
	}
	must(t, good.validate())
	for field, spoil := range map[string]func(*Config){
		"PodCIDRs [10.0":  func(c *Config) { c.PodCIDRs = prefixes("10.0.0.0/24") },
		"PodCIDRs [fd00":  func(c *Config) { c.PodCIDRs = prefixes("fd00:2::/64") },
		"ServiceCIDRs []": func(c *Config) { c.ServiceCIDRs = nil },
		"ServiceCIDRs [1": func(c *Config) { c.ServiceCIDRs = prefixes("10.97.0.0/16", "10.98.0.0/16") },
		"NodeIPs":         func(c *Config) { c.NodeIPs = nil },
		"RunDir":          func(c *Config) { c.RunDir = "" },
	} {
		bad := good
		spoil(&bad)
		if _, err := Start(t.Context(), bad); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("a bad %s gives %v", field, err)
		}
	}
}

// holdOpen answers every line of every connection until it is closed.
func holdOpen(t *testing.T, p pod) {
	t.Helper()
	in(t, p.ns, func() error {
		l, err := net.Listen("tcp4", ":9090")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = io.Copy(c, c)
				}()
			}
		}()
		return nil
	})
}

// TestConnectionsOutliveTheProcess holds a connection from pod to pod while the node's process goes and another comes.
func TestConnectionsOutliveTheProcess(t *testing.T) {
	n := startNode(t)
	a, b := n.addPod(t, "a"), n.addPod(t, "b")
	holdOpen(t, a)
	var c net.Conn
	in(t, b.ns, func() (err error) {
		c, err = net.DialTimeout("tcp4", a.address.String()+":9090", 2*time.Second)
		return err
	})
	defer c.Close()
	exchangeLine := func(when string) {
		t.Helper()
		must(t, c.SetDeadline(time.Now().Add(2*time.Second)))
		_, err := c.Write([]byte("x"))
		must(t, err)
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	exchangeLine("before")
	for range 3 {
		n.Close()
		exchangeLine("while nobody is there")
		n.start(t)
		exchangeLine("after")
	}
	for _, p := range []pod{a, b} {
		if again, err := n.Attach(t.Context(), podnet.Pod{UID: "uid-" + p.name, Namespace: "default", Name: p.name}); err != nil || again.IPs[0] != p.address {
			t.Errorf("pod %s: %+v, %v", p.name, again, err)
		}
	}
	exchangeLine("after Attach")
}
