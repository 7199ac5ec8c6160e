package podnet

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/datapath/desired"
)

var (
	podCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.7.0/24"), netip.MustParsePrefix("fd00:10:244:7::/64")}
	quiet    = slog.New(slog.NewTextHandler(io.Discard, nil))
)

// fakeKernel stands in for programs and maps. It fails the call named by failOn.
type fakeKernel struct {
	mu        sync.Mutex
	failOn    string
	attached  map[string]int
	netdevs   map[int]string
	uplinks   chan []Uplink
	endpoints map[netip.Addr]desired.Endpoint
}

func newFakeKernel() *fakeKernel {
	return &fakeKernel{attached: map[string]int{}, netdevs: map[int]string{}, endpoints: map[netip.Addr]desired.Endpoint{}}
}

var errInjected = errors.New("injected")

func (f *fakeKernel) do(op string, fn func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failOn == op {
		return errInjected
	}
	fn()
	return nil
}

func (f *fakeKernel) AttachPod(device string, ifindex int) error {
	return f.do("AttachPod", func() { f.attached[device] = ifindex })
}

func (f *fakeKernel) DetachPod(device string, _ int) error {
	return f.do("DetachPod", func() { delete(f.attached, device) })
}

func (f *fakeKernel) AttachNetdev(device string, ifindex int) error {
	return f.do("AttachNetdev", func() { f.netdevs[ifindex] = device })
}

func (f *fakeKernel) DetachNetdev(_ string, ifindex int) error {
	return f.do("DetachNetdev", func() { delete(f.netdevs, ifindex) })
}

func (f *fakeKernel) NetdevDevices() ([]int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.netdevs)), nil
}

func (f *fakeKernel) Changed(uplinks []Uplink) error {
	if f.uplinks != nil {
		f.uplinks <- uplinks
	}
	return nil
}

func (f *fakeKernel) Put(e desired.Endpoint) error {
	return f.do("Put", func() { f.endpoints[e.Address] = e })
}

func (f *fakeKernel) Delete(a netip.Addr) error {
	return f.do("Delete", func() { delete(f.endpoints, a) })
}

func (f *fakeKernel) List() ([]desired.Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.endpoints)), nil
}

func newManager(t testing.TB, dir string, kernel *fakeKernel) *Manager {
	t.Helper()
	host, err := NewHost(podCIDRs, filepath.Dir(dir), kernel, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Setup(); err != nil {
		t.Fatal(err)
	}
	m, err := New(Config{Dir: dir, PodCIDRs: podCIDRs, Programs: kernel, Endpoints: kernel, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if err := Cleanup(dir); err != nil {
			t.Error(err)
		}
	})
	return m
}

// attach attaches a pod and removes it when the test ends.
func attach(t testing.TB, m *Manager, uid string) Attachment {
	t.Helper()
	a, err := m.Attach(t.Context(), Pod{UID: uid, Namespace: "default", Name: "pod-" + uid})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// echoFrom answers one connection to address from inside the namespace.
func echoFrom(t *testing.T, m *Manager, netns, address string) {
	t.Helper()
	ns, err := openNamespace(netns)
	if err != nil || ns == nil {
		t.Fatalf("namespace %s: %v", netns, err)
	}
	defer ns.Close()
	var l net.Listener
	err = enter(ns, m.hostNS, func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, c.RemoteAddr())
			c.Close()
		}
	}()
}

// ask connects and returns the address that the other side saw.
func ask(t *testing.T, address string) netip.Addr {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return netip.MustParseAddrPort(string(b)).Addr()
}

func TestHostReachesPodAndBack(t *testing.T) {
	m := newManager(t, t.TempDir()+"/netns", newFakeKernel())
	a, b := attach(t, m, "uid-a"), attach(t, m, "uid-b")

	echoFrom(t, m, a.NetNS, a.IPs[0].String()+":80")
	if from := ask(t, a.IPs[0].String()+":80"); from != netip.MustParseAddr("10.244.7.1") {
		t.Errorf("the pod saw the host as %s, want the router address", from)
	}

	l, err := net.Listen("tcp4", "10.244.7.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ns, err := openNamespace(b.NetNS)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = enter(ns, m.hostNS, func() error {
		for _, to := range []string{l.Addr().String(), a.IPs[0].String() + ":80"} {
			c, err := net.DialTimeout("tcp", to, 2*time.Second)
			if err != nil {
				return err
			}
			c.Close()
		}
		return nil
	})
	if err != nil {
		t.Errorf("from pod b: %v", err)
	}
}

func TestHostReachesPodByIPv6(t *testing.T) {
	m := newManager(t, t.TempDir()+"/netns", newFakeKernel())
	a, b := attach(t, m, "uid-a"), attach(t, m, "uid-b")
	address := netip.AddrPortFrom(a.IPs[1], 80).String()
	// Nothing is awaited: the address is there at once, without detection of duplicates.
	echoFrom(t, m, a.NetNS, address)
	if from := ask(t, address); from != netip.MustParseAddr("fd00:10:244:7::1") {
		t.Errorf("the pod saw the host as %s, want the router address", from)
	}
	ns, err := openNamespace(b.NetNS)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = enter(ns, m.hostNS, func() error {
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() {
				t.Errorf("the pod has %s besides its own", a.IP)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if e := m.cfg.Endpoints.(*fakeKernel).endpoints[a.IPs[1]]; e.IfIndex == 0 || e.NetNS != 0 {
		t.Errorf("endpoint %+v, want one of a device that stands for no namespace", e)
	}
}

func TestRangesAreReplaced(t *testing.T) {
	dir, kernel := t.TempDir(), newFakeKernel()
	t.Cleanup(func() {
		if err := Cleanup(filepath.Join(dir, "netns")); err != nil {
			t.Error(err)
		}
	})
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, ranges := range []string{"10.244.8.0/24,fd00:10:244:8::/64", "fd00:10:244:9::/64", ""} {
		var prefixes []netip.Prefix
		want := map[string]bool{"127.0.0.1": true, "::1": true}
		for s := range strings.SplitSeq(ranges, ",") {
			if p, err := netip.ParsePrefix(s); err == nil {
				prefixes = append(prefixes, p)
				want[p.Addr().Next().String()] = true
			}
		}
		if len(prefixes) == 0 {
			err = Cleanup(filepath.Join(dir, "netns"))
		} else {
			var host *Host
			if host, err = NewHost(prefixes, dir, kernel, quiet); err == nil {
				err = host.Setup()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		addrs, err := netlink.AddrList(lo, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, a := range addrs {
			got[a.IP.String()] = true
		}
		if !maps.Equal(got, want) {
			t.Errorf("ranges %q: addresses %v, want %v", ranges, got, want)
		}
	}
}

func inUse(m *Manager) int {
	if a, b := m.pools[0].InUse(), m.pools[1].InUse(); a != b {
		return -1
	}
	return m.pools[0].InUse()
}

func TestAttachIsIdempotentAndAdopted(t *testing.T) {
	dir, kernel := t.TempDir()+"/netns", newFakeKernel()
	first := newManager(t, dir, kernel)
	a := attach(t, first, "uid-a")
	echoFrom(t, first, a.NetNS, a.IPs[0].String()+":80")
	if again := attach(t, first, "uid-a"); again.IPs[0] != a.IPs[0] {
		t.Errorf("moved from %s to %s", a.IPs[0], again.IPs[0])
	}

	// A new process finds the pod, repairs what somebody removed, and gives its address to nobody else.
	kernel.endpoints, kernel.attached = map[netip.Addr]desired.Endpoint{}, map[string]int{}
	second := newManager(t, dir, kernel)
	if b := attach(t, second, "uid-b"); b.IPs[0] == a.IPs[0] {
		t.Fatalf("%s handed out twice", a.IPs[0])
	}
	if err := second.Reconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(kernel.endpoints) != 4 || len(kernel.attached) != 2 {
		t.Errorf("not reconnected: endpoints %v, programs %v", kernel.endpoints, kernel.attached)
	}
	if again := attach(t, second, "uid-a"); again.IPs[0] != a.IPs[0] || again.NetNS != a.NetNS {
		t.Errorf("after a restart: %+v, before: %+v", again, a)
	}
	if len(kernel.endpoints) != 4 || len(kernel.attached) != 2 {
		t.Errorf("not repaired: endpoints %v, programs %v", kernel.endpoints, kernel.attached)
	}
	ask(t, a.IPs[0].String()+":80")
}

func TestDetachLeavesNothing(t *testing.T) {
	dir, kernel := t.TempDir()+"/netns", newFakeKernel()
	m := newManager(t, dir, kernel)
	attach(t, m, "uid-a")
	for range 2 {
		if err := m.Detach(t.Context(), "uid-a"); err != nil {
			t.Fatal(err)
		}
	}
	assertEmpty(t, m, kernel)
}

func assertEmpty(t *testing.T, m *Manager, kernel *fakeKernel) {
	t.Helper()
	m.deletions.Wait()
	devices, err := podDevices(m.host)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(devices)+len(entries)+len(kernel.attached)+len(kernel.endpoints)+inUse(m) != 0 {
		t.Errorf("left: devices %v, namespaces %v, programs %v, endpoints %v, %d addresses",
			devices, entries, kernel.attached, kernel.endpoints, inUse(m))
	}
}

func TestFailedAttachLeavesNothing(t *testing.T) {
	for _, op := range []string{"AttachPod", "Put"} {
		t.Run(op, func(t *testing.T) {
			kernel := newFakeKernel()
			m := newManager(t, t.TempDir()+"/netns", kernel)
			kernel.failOn = op
			if _, err := m.Attach(t.Context(), Pod{UID: "u", Namespace: "n", Name: "p"}); !errors.Is(err, errInjected) {
				t.Errorf("error %v", err)
			}
			assertEmptyButRest(t, m, kernel)
		})
	}
}

func assertEmptyButRest(t *testing.T, m *Manager, kernel *fakeKernel) {
	t.Helper()
	kernel.failOn = ""
	clear(kernel.endpoints)
	assertEmpty(t, m, kernel)
}

// TestCrashDuringAttach stops an Attach after each of its steps, as a kill would, and lets a new process try again.
func TestCrashDuringAttach(t *testing.T) {
	pod := Pod{UID: "u", Namespace: "n", Name: "p"}
	steps := map[string]func(m *Manager) error{
		"file without a namespace": func(m *Manager) error { return os.WriteFile(m.path("u"), nil, 0o400) },
		"namespace without a device": func(m *Manager) error {
			ns, err := createNamespace(m.path("u"), m.hostNS)
			if err == nil {
				ns.Close()
			}
			return err
		},
		"device without an alias": func(m *Manager) error {
			ns, err := createNamespace(m.path("u"), m.hostNS)
			if err != nil {
				return err
			}
			defer ns.Close()
			d := newDevice(pod, []netip.Addr{netip.MustParseAddr("10.244.7.2"), netip.MustParseAddr("fd00:10:244:7::2")})
			return d.create(m.host, ns, 1500)
		},
		"finished device without a namespace": func(m *Manager) error {
			if _, err := m.Attach(t.Context(), pod); err != nil {
				return err
			}
			return removeNamespace(m.path("u"))
		},
	}
	for name, crash := range steps {
		t.Run(name, func(t *testing.T) {
			dir, kernel := t.TempDir()+"/netns", newFakeKernel()
			if err := crash(newManager(t, dir, kernel)); err != nil {
				t.Fatal(err)
			}
			m := newManager(t, dir, kernel)
			a := attach(t, m, "u")
			echoFrom(t, m, a.NetNS, a.IPs[0].String()+":80")
			ask(t, a.IPs[0].String()+":80")
			if inUse(m) != 1 {
				t.Errorf("%d addresses in use", inUse(m))
			}
		})
	}
}

func TestRetain(t *testing.T) {
	dir, kernel := t.TempDir()+"/netns", newFakeKernel()
	m := newManager(t, dir, kernel)
	kept := attach(t, m, "kept")
	attach(t, m, "gone")
	attach(t, m, "gone2")
	if err := removeNamespace(m.path("gone2")); err != nil {
		t.Fatal(err)
	}
	// The kernel takes its time for the device.
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := net.InterfaceByName(deviceName("gone2")); err != nil {
			break
		}
	}
	kernel.endpoints[netip.MustParseAddr("10.244.7.99")] = desired.Endpoint{Address: netip.MustParseAddr("10.244.7.99")}

	if err := m.Retain(t.Context(), []string{"kept", "never attached"}); err != nil {
		t.Fatal(err)
	}
	for name := range kernel.attached {
		// A namespace takes its device along, and the programs on it, before or after Retain looks.
		if _, err := net.InterfaceByName(name); err != nil {
			delete(kernel.attached, name)
		}
	}
	if len(kernel.endpoints) != 2 || len(kernel.attached) != 1 || inUse(m) != 1 {
		t.Errorf("left: programs %v, endpoints %v, %d addresses", kernel.attached, kernel.endpoints, inUse(m))
	}
	echoFrom(t, m, kept.NetNS, kept.IPs[0].String()+":80")
	ask(t, kept.IPs[0].String()+":80")
}

func TestAttachRefusesBadUID(t *testing.T) {
	m := newManager(t, t.TempDir()+"/netns", newFakeKernel())
	for _, uid := range []string{"", "../x", "a/b", ".", "a b"} {
		if _, err := m.Attach(t.Context(), Pod{UID: uid}); err == nil {
			t.Errorf("uid %q was accepted", uid)
		}
	}
}

func TestCleanupRestores(t *testing.T) {
	dir, kernel := t.TempDir()+"/netns", newFakeKernel()
	m := newManager(t, dir, kernel)
	attach(t, m, "uid-a")
	for range 2 {
		if err := Cleanup(dir); err != nil {
			t.Fatal(err)
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	if len(routes) != 0 {
		t.Errorf("routes left: %v", routes)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 {
		t.Errorf("addresses left on lo: %v, %v", addrs, err)
	}
}

func BenchmarkAttachDetach(b *testing.B) {
	m := newManager(b, b.TempDir()+"/netns", newFakeKernel())
	var detach time.Duration
	for i := range b.N {
		uid := fmt.Sprint("bench-", i)
		attach(b, m, uid)
		start := time.Now()
		if err := m.Detach(b.Context(), uid); err != nil {
			b.Fatal(err)
		}
		detach += time.Since(start)
	}
	b.ReportMetric(float64(detach.Microseconds())/float64(b.N), "detach-us/op")
}

func TestBurst(t *testing.T) {
	kernel := newFakeKernel()
	m := newManager(t, t.TempDir()+"/netns", kernel)
	const pods = 30
	var wg sync.WaitGroup
	addresses := make([]netip.Addr, pods)
	for i := range pods {
		wg.Go(func() {
			pod := Pod{UID: fmt.Sprint("burst-", i), Namespace: "default", Name: "burst"}
			for range 2 { // and each again, as a retry would
				a, err := m.Attach(t.Context(), pod)
				if err != nil {
					t.Error(err)
					return
				}
				addresses[i] = a.IPs[0]
			}
		})
	}
	wg.Wait()
	slices.SortFunc(addresses, netip.Addr.Compare)
	if got := len(slices.Compact(addresses)); got != pods {
		t.Errorf("%d addresses for %d pods", got, pods)
	}
	for i := range pods {
		wg.Go(func() {
			if err := m.Detach(t.Context(), fmt.Sprint("burst-", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	assertEmpty(t, m, kernel)
}
