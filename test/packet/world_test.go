package packet_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
	skepnetns "github.com/skep-io/skep/datapath/netns"
	"github.com/skep-io/skep/datapath/podnet"
)

// world is a node in a network namespace of its own, with pods and a machine
// outside, joined by real veths that carry the real programs.
type world struct {
	t       *testing.T
	node    netns.NsHandle
	objects *load.Objects
	sockets string // cgroup whose sockets are translated
	home    string // cgroup that the test process came from
}

const hostMAC = "02:00:00:00:00:01"

// newWorld makes the node and the machine outside, and loads the programs in
// the node. The sockets of the test process are in a cgroup of its own.
func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOf(t, testConfig)
}

func newWorldOf(t *testing.T, config load.Config) *world {
	t.Helper()
	w := &world{t: t}
	w.node = w.namespace()
	w.in(w.node, func() {
		w.ip("link", "set", "lo", "up")
		w.ip("addr", "add", router.String()+"/32", "dev", "lo")
		w.ip("addr", "add", six(router).String()+"/128", "dev", "lo")
		w.sysctl("net/ipv4/ip_forward", "1")
		w.sysctl("net/ipv6/conf/all/forwarding", "1")
		w.sysctl("net/ipv4/conf/all/rp_filter", "0")
		w.sysctl("net/ipv4/conf/default/rp_filter", "0")
		var err error
		if w.objects, err = load.Open(config); err != nil {
			t.Errorf("%+v", err)
		}
	})
	if w.objects == nil {
		t.FailNow()
	}
	t.Cleanup(func() { w.objects.Close() })
	w.row(abi.MapNode, abi.AddrFrom(router), abi.Node{Flags: abi.NodeLocal})
	w.row(abi.MapNode, abi.AddrFrom(six(router)), abi.Node{Flags: abi.NodeLocal})
	w.childCgroup()
	if err := w.objects.AttachSock(w.sockets); err != nil {
		t.Fatal(err)
	}
	return w
}

// childCgroup makes a cgroup for the sockets that are to be translated.
func (w *world) childCgroup() {
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(self)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			w.home = filepath.Join(root, path)
		}
	}
	w.sockets = filepath.Join(root, fmt.Sprintf("skep-test-%d-%s", os.Getpid(), strings.ReplaceAll(w.t.Name(), "/", "-")))
	if err := os.Mkdir(w.sockets, 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := os.Remove(w.sockets); err != nil {
			w.t.Error(err)
		}
	})
}

// translated makes the sockets that f opens ones that the sock programs see.
// Others are like those of a machine outside or of a foreign sandbox.
func (w *world) translated(f func()) {
	w.move(w.sockets)
	defer w.move(w.home)
	f()
}

func (w *world) move(cgroup string) {
	w.t.Helper()
	err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	if err != nil {
		w.t.Fatal(err)
	}
}

// namespace makes a network namespace that lives as long as the test.
func (w *world) namespace() netns.NsHandle {
	w.t.Helper()
	made := make(chan netns.NsHandle)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		ns, err := netns.New()
		if err != nil {
			ns = netns.None()
		}
		made <- ns
	}()
	ns := <-made
	if !ns.IsOpen() {
		w.t.Fatal("cannot make a network namespace")
	}
	w.t.Cleanup(func() { ns.Close() })
	return ns
}

// in runs f in a network namespace. Sockets that f makes stay there.
func (w *world) in(ns netns.NsHandle, f func()) {
	w.t.Helper()
	done := make(chan error)
	go func() {
		var err error
		defer func() { done <- err }()
		runtime.LockOSThread() // never unlocked: the thread ends here
		if err = netns.Set(ns); err == nil {
			f()
		}
	}()
	if err := <-done; err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ip(args ...string) {
	w.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		w.t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (w *world) sysctl(name, value string) {
	// /proc/sys/net is that of the thread that opens it.
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		w.t.Errorf("%s: %v", name, err)
	}
}

func (w *world) row(name string, key, value any) {
	w.t.Helper()
	if err := w.objects.Map(name).Put(key, value); err != nil {
		w.t.Fatalf("map %s: %v", name, err)
	}
}

// link joins a new namespace to the node by a veth and returns the namespace
// and the index of the node's side.
func (w *world) link(name string) (netns.NsHandle, int) {
	w.t.Helper()
	ns := w.namespace()
	var index int
	w.in(w.node, func() {
		w.ip("link", "add", "name", name, "address", hostMAC, "type", "veth", "peer", "name", name+"p")
		w.ip("link", "set", "dev", name, "up")
		peer, err := netlink.LinkByName(name + "p")
		if err != nil {
			w.t.Error(err)
			return
		}
		if err := netlink.LinkSetNsFd(peer, int(ns)); err != nil {
			w.t.Error(err)
		}
		l, err := net.InterfaceByName(name)
		if err != nil {
			w.t.Error(err)
			return
		}
		index = l.Index
	})
	w.in(ns, func() {
		w.ip("link", "set", "lo", "up")
		w.ip("link", "set", "dev", name+"p", "name", "eth0")
		w.ip("link", "set", "eth0", "up")
	})
	return ns, index
}

// pod makes a pod with its programs and endpoint.
func (w *world) pod(name string, addr netip.Addr) netns.NsHandle {
	w.t.Helper()
	ns, index := w.link(name)
	var mac [6]uint8
	var cookie uint64
	w.in(ns, func() {
		w.ip("addr", "add", addr.String()+"/32", "dev", "eth0")
		w.ip("route", "add", router.String(), "dev", "eth0")
		w.ip("route", "add", "default", "via", router.String())
		w.ip("neigh", "add", router.String(), "lladdr", hostMAC, "dev", "eth0", "nud", "permanent")
		w.ip("addr", "add", six(addr).String()+"/128", "dev", "eth0", "nodad")
		w.ip("route", "add", six(router).String(), "dev", "eth0")
		w.ip("route", "add", "default", "via", six(router).String())
		w.ip("neigh", "add", six(router).String(), "lladdr", hostMAC, "dev", "eth0", "nud", "permanent")
		l, err := net.InterfaceByName("eth0")
		if err != nil {
			w.t.Error(err)
			return
		}
		copy(mac[:], l.HardwareAddr)
		if cookie, err = skepnetns.Cookie(); err != nil {
			w.t.Error(err)
		}
	})
	w.in(w.node, func() {
		w.ip("route", "add", addr.String()+"/32", "dev", name)
		w.ip("route", "add", six(addr).String()+"/128", "dev", name)
		w.attach(index, w.objects.AttachPod, abi.ProgFromPod, abi.ProgToPod)
	})
	w.row(abi.MapNetns, cookie, abi.AddrFrom(addr))
	for _, a := range []netip.Addr{addr, six(addr)} {
		w.row(abi.MapEndpoint, abi.AddrFrom(a), abi.Endpoint{Ifindex: uint32(index), Mac: mac})
	}
	return ns
}

// attach uses links, and filters on kernels that have no links for devices.
func (w *world) attach(index int, links func(int) error, ingress, egress string) {
	w.t.Helper()
	err := links(index)
	if errors.Is(err, load.ErrNoTCX) {
		err = podnet.AttachFilters(index, podnet.Filters{Ingress: w.objects.Program(ingress).FD(), Egress: w.objects.Program(egress).FD()})
	}
	if err != nil {
		w.t.Error(err)
	}
}

// outside makes the machine that knows only the node's address, and that
// Services are behind it.
func (w *world) outside() netns.NsHandle {
	w.t.Helper()
	ns, index := w.link("up0")
	w.in(ns, func() {
		w.ip("addr", "add", clientIP.String()+"/24", "dev", "eth0")
		w.ip("addr", "add", six(clientIP).String()+"/120", "dev", "eth0", "nodad")
		w.ip("route", "add", testConfig.ServiceNetwork6.String(), "via", six(nodeIP).String())
		w.ip("route", "add", testConfig.ServiceNetwork.String(), "via", nodeIP.String())
	})
	w.in(w.node, func() {
		w.ip("addr", "add", nodeIP.String()+"/24", "dev", "up0")
		w.ip("addr", "add", six(nodeIP).String()+"/120", "dev", "up0", "nodad")
		w.attach(index, w.objects.AttachNetdev, abi.ProgFromNet, abi.ProgToNet)
	})
	w.row(abi.MapNode, abi.AddrFrom(nodeIP), abi.Node{Flags: abi.NodeLocal})
	w.row(abi.MapNode, abi.AddrFrom(six(nodeIP)), abi.Node{Flags: abi.NodeLocal})
	w.row(abi.MapDevice, uint32(index), abi.Device{Masquerade: abi.AddrFrom(nodeIP), Masquerade6: abi.AddrFrom(six(nodeIP))})
	return ns
}

// service writes a Service port with its frontends and backends.
func (w *world) service(s service) {
	w.t.Helper()
	if err := s.write(w.objects); err != nil {
		w.t.Fatal(err)
	}
}

// services writes a Service port and its twin of IPv6.
func (w *world) services(s service) {
	w.t.Helper()
	w.service(s)
	w.service(s.six())
}
