package packet_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
	"github.com/skep-io/skep/datapath/podnet"
)

// The other node of these tests, and the link between the two.
var (
	farNet  = netip.MustParsePrefix("10.244.9.0/24")
	farPod  = netip.MustParseAddr("10.244.9.1")
	farIP   = netip.MustParseAddr("198.51.100.2")
	nearIP  = netip.MustParseAddr("198.51.100.1")
	nowhere = netip.MustParseAddr("10.244.77.1")
)

// next says that the next program decides.
const next = 0xffffffff

// toward is the row of a range of pods behind the tunnel.
func toward(pods netip.Prefix, node netip.Addr, mtu uint32) (abi.TunnelKey, abi.Tunnel) {
	bits := uint32(pods.Bits())
	if pods.Addr().Is4() {
		bits += 96
	}
	return abi.TunnelKey{Prefix: bits, Addr: abi.AddrFrom(pods.Addr())}, abi.Tunnel{Node: abi.AddrFrom(node), Mtu: mtu}
}

// TestOverlayPrograms: what goes into the tunnel, and what is refused that comes out of it.
func TestOverlayPrograms(t *testing.T) {
	o := testNode(t)
	for _, pods := range []netip.Prefix{farNet, sixPrefix(farNet)} {
		key, row := toward(pods, farIP, 1450)
		if err := o.Map(abi.MapTunnel).Put(key, row); err != nil {
			t.Fatal(err)
		}
	}
	far := at(farPod, 80)
	host := at(nodeIP, 40000)
	rows := []struct {
		name string
		life []hop
	}{
		{"pod to another node's pod", []hop{to(abi.ProgToOverlay, fromA(tcpFrame(a, far, syn)), next)}},
		{"pod to an address that no node has", []hop{refused(abi.ProgToOverlay, fromA(tcpFrame(a, at(nowhere, 80), syn)), reason("no_tunnel"))}},
		{"the node from another address than the router's, and back", []hop{
			to(abi.ProgToOverlay, tcpFrame(host, far, syn), next, tcpFrame(at(router, 61000), far, syn)),
			to(abi.ProgToNet, tcpFrame(at(router, 61000), far, syn), pass),
			to(abi.ProgFromNet, fromOut(tcpFrame(far, at(router, 61000), syn|ack)), pass, fromOut(tcpFrame(far, host, syn|ack))),
			to(abi.ProgToOverlay, tcpFrame(host, far, ack), next),
			to(abi.ProgToNet, tcpFrame(host, far, ack), pass, tcpFrame(at(router, 61000), far, ack)),
		}},
		{"what did not come through the tunnel", []hop{refused(abi.ProgFromOverlay, fromOut(tcpFrame(far, a, syn)), reason("tunnel_source"))}},
	}
	for _, r := range rows {
		live(t, o, r.name, r.life)
	}
}

// farNode is another node, with programs of its own, which has one address of pods: its router's.
type farNode struct {
	ns      netns.NsHandle
	objects *load.Objects
}

// far makes the other node, joined to this one by a link and by the tunnel over the addresses that of gives. It does not know that
// the way is narrow, so that who sends to it finds out.
func (w *world) far(of func(netip.Addr) netip.Addr) farNode {
	w.t.Helper()
	var f farNode
	ns, _ := w.link("peer0")
	f.ns = ns
	w.in(w.node, func() {
		w.ip("addr", "add", nearIP.String()+"/24", "dev", "peer0")
		w.ip("addr", "add", six(nearIP).String()+"/120", "dev", "peer0", "nodad")
		w.tunnel(w.objects, testConfig.Router, farNet, of(farIP), 1430)
	})
	w.in(ns, func() {
		w.ip("addr", "add", farIP.String()+"/24", "dev", "eth0")
		w.ip("addr", "add", six(farIP).String()+"/120", "dev", "eth0", "nodad")
		w.ip("addr", "add", farPod.String()+"/32", "dev", "lo")
		w.ip("addr", "add", six(farPod).String()+"/128", "dev", "lo")
		config := testConfig
		config.PodNetwork, config.PodNetwork6, config.Router, config.Router6 = farNet, sixPrefix(farNet), farPod, six(farPod)
		var err error
		if f.objects, err = load.Open(config); err != nil {
			w.t.Errorf("%+v", err)
			return
		}
		w.t.Cleanup(func() { f.objects.Close() })
		w.tunnel(f.objects, farPod, testConfig.PodNetwork, of(nearIP), 1500)
	})
	for _, a := range []netip.Addr{farPod, six(farPod)} {
		if err := f.objects.Map(abi.MapNode).Put(abi.AddrFrom(a), abi.Node{Flags: abi.NodeLocal}); err != nil {
			w.t.Fatal(err)
		}
	}
	return f
}

// tunnel makes the tunnel's device in the namespace of the thread, with a way to the pods of another node.
func (w *world) tunnel(o *load.Objects, own netip.Addr, pods netip.Prefix, node netip.Addr, mtu int) {
	index, err := podnet.EnsureOverlay(mtu, true)
	if err != nil {
		w.t.Error(err)
		return
	}
	err = o.AttachOverlay(index)
	if errors.Is(err, load.ErrNoTCX) {
		filters := func(in, out string) podnet.Filters {
			return podnet.Filters{Ingress: o.Program(in).FD(), Egress: o.Program(out).FD()}
		}
		err = podnet.AttachFilters(index, filters(abi.ProgFromOverlay, abi.ProgToOverlay), filters(abi.ProgFromNet, abi.ProgToNet))
	}
	put := func(name string, key, value any) {
		err = errors.Join(err, o.Map(name).Put(key, value))
	}
	put(abi.MapNode, abi.AddrFrom(node), abi.Node{})
	put(abi.MapDevice, uint32(index), abi.Device{Masquerade: abi.AddrFrom(own), Masquerade6: abi.AddrFrom(six(own))})
	for _, p := range []struct {
		pods     netip.Prefix
		gw, from netip.Addr
	}{{pods, netip.MustParseAddr("169.254.83.1"), own}, {sixPrefix(pods), netip.MustParseAddr("fe80::53:1"), six(own)}} {
		key, row := toward(p.pods, node, uint32(mtu))
		put(abi.MapTunnel, key, row)
		route := &netlink.Route{LinkIndex: index, Gw: p.gw.AsSlice(), Src: p.from.AsSlice(), MTU: mtu, MTULock: true,
			Dst: &net.IPNet{IP: p.pods.Addr().AsSlice(), Mask: net.CIDRMask(p.pods.Bits(), p.pods.Addr().BitLen())}}
		if p.gw.Is4() {
			route.Flags = int(netlink.FLAG_ONLINK)
		}
		err = errors.Join(err, netlink.RouteReplace(route))
	}
	if err != nil {
		w.t.Error(err)
	}
}

// TestOverlay sends through a real tunnel between two nodes, over IPv4 and over IPv6.
func TestOverlay(t *testing.T) {
	t.Run("over IPv4", func(t *testing.T) { testOverlay(t, func(a netip.Addr) netip.Addr { return a }) })
	t.Run("over IPv6", func(t *testing.T) { testOverlay(t, six) })
}

func testOverlay(t *testing.T, outer func(netip.Addr) netip.Addr) {
	w := newWorld(t)
	a, out := w.pod("a", podA), w.outside()
	f := w.far(outer)
	for _, of := range []func(netip.AddrPort) netip.AddrPort{itself, six2} {
		w.serve(a, "a", of(at(podA, 80)))
		w.serve(f.ns, "far", of(at(farPod, 80)))
		w.sink(f.ns, of(at(farPod, 81)))
		w.sink(a, of(at(podA, 81)))
	}
	w.services(tcp(1, list(at(vip, 80), at(anyIP, 30080)), list(at(farPod, 80))))
	w.services(udp(2, list(at(vip, 80), at(anyIP, 30080)), list(at(farPod, 80))))
	w.services(tcp(3, list(at(vip, 81), at(anyIP, 30081)), list(at(farPod, 81))))

	rows := []struct {
		name   string
		from   netns.NsHandle
		to     netip.AddrPort
		answer string
		source netip.Addr
	}{
		{"pod to pod", a, at(farPod, 80), "far", podA},
		{"pod to service", a, at(vip, 80), "far", podA},
		{"node to pod", w.node, at(farPod, 80), "far", router},
		{"pod there to pod here", f.ns, at(podA, 80), "a", farPod},
		{"node port from outside", out, at(nodeIP, 30080), "far", router},
	}
	for _, r := range rows {
		for _, network := range []string{"tcp4", "udp4", "tcp6", "udp6"} {
			to, source := r.to, r.source
			if network[3] == '6' {
				to, source = six2(to), six(source)
			}
			t.Run(r.name+" "+network, func(t *testing.T) { w.with(t).wantAnswer(r.from, network, to, r.answer, source) })
		}
	}
	// Whoever sends must find out that the way is narrower than its own link.
	for _, of := range []func(netip.AddrPort) netip.AddrPort{itself, six2} {
		t.Run("much from pod to "+of(at(farPod, 81)).String(), func(t *testing.T) { w.with(t).pour(a, of(at(farPod, 81))) })
		t.Run("much from pod to service "+of(at(vip, 81)).String(), func(t *testing.T) { w.with(t).pour(a, of(at(vip, 81))) })
		t.Run("much from there to "+of(at(podA, 81)).String(), func(t *testing.T) { w.with(t).pour(f.ns, of(at(podA, 81))) })
		before := drops(t, w.objects, int(reason("too_large")))
		t.Run("much from outside to "+of(at(nodeIP, 30081)).String(), func(t *testing.T) { w.with(t).pour(out, of(at(nodeIP, 30081))) })
		if drops(t, w.objects, int(reason("too_large"))) == before {
			t.Error("nothing from outside was too large: the test tests nothing")
		}
	}
	t.Run("a sender that is no node", func(t *testing.T) {
		if err := f.objects.Map(abi.MapNode).Delete(abi.AddrFrom(outer(nearIP))); err != nil {
			t.Fatal(err)
		}
		w.in(a, func() {
			c, err := net.Dial("udp4", at(farPod, 80).String())
			if err == nil {
				defer c.Close()
				_, err = c.Write([]byte("x\n"))
			}
			if err != nil {
				t.Error(err)
			}
		})
		for deadline := time.Now().Add(patience); drops(t, f.objects, int(reason("tunnel_source"))) == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("not refused")
			}
		}
	})
	w.reportDrops()
}

// sink answers each connection with the SHA-256 sum of all that it is sent.
func (w *world) sink(ns netns.NsHandle, addr netip.AddrPort) {
	w.t.Helper()
	w.in(ns, func() {
		l, err := net.Listen("tcp", addr.String())
		if err != nil {
			w.t.Error(err)
			return
		}
		w.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					sum := sha256.New()
					if _, err := io.Copy(sum, c); err == nil {
						c.Write(sum.Sum(nil))
					}
				}()
			}
		}()
	})
}

// pour sends a sink much, and compares the sums.
func (w *world) pour(ns netns.NsHandle, to netip.AddrPort) {
	w.t.Helper()
	data := make([]byte, 1<<20)
	rand.Read(data)
	want := sha256.Sum256(data)
	w.in(ns, func() {
		c, err := net.DialTimeout("tcp", to.String(), patience)
		if err != nil {
			w.t.Error(err)
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * patience))
		if _, err := c.Write(data); err != nil {
			w.t.Error(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			w.t.Error(err)
		}
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, want[:]) {
			w.t.Errorf("%s: %v, sum %x, want %x", to, err, got, want)
		}
	})
}
