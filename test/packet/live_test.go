package packet_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/skep-io/skep/datapath/abi"
	skepnetns "github.com/skep-io/skep/datapath/netns"
)

const patience = 5 * time.Second

// serve answers by TCP and UDP.
func (w *world) serve(ns netns.NsHandle, name string, addr netip.AddrPort) {
	w.t.Helper()
	w.serveTCP(ns, name, addr)
	w.serveUDP(ns, name, addr)
}

// serveTCP answers each line with the name and the peer's address.
func (w *world) serveTCP(ns netns.NsHandle, name string, addr netip.AddrPort) {
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
					for {
						if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
							return
						}
						fmt.Fprintf(c, "%s %s\n", name, c.RemoteAddr().(*net.TCPAddr).IP)
					}
				}()
			}
		}()
	})
}

func (w *world) serveUDP(ns netns.NsHandle, name string, addr netip.AddrPort) {
	w.t.Helper()
	w.in(ns, func() {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		if err != nil {
			w.t.Error(err)
			return
		}
		w.t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				_, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				fmt.Fprintf(writerTo{c, from}, "%s %s\n", name, from.Addr().Unmap())
			}
		}()
	})
}

type writerTo struct {
	conn *net.UDPConn
	to   netip.AddrPort
}

func (w writerTo) Write(b []byte) (int, error) { return w.conn.WriteToUDPAddrPort(b, w.to) }

// ask connects, sends a line and returns the answer and the peer as the
// socket shows it. Connections are closed again before it returns.
func (w *world) ask(ns netns.NsHandle, network string, to netip.AddrPort) (answer, peer string, err error) {
	w.t.Helper()
	w.in(ns, func() {
		var c net.Conn
		if c, err = net.DialTimeout(network, to.String(), patience); err != nil {
			return
		}
		defer c.Close()
		peer = c.RemoteAddr().String()
		c.SetDeadline(time.Now().Add(patience))
		if _, err = io.WriteString(c, "hello\n"); err != nil {
			return
		}
		answer, err = bufio.NewReader(c).ReadString('\n')
	})
	return answer, peer, err
}

func (w *world) wantAnswer(ns netns.NsHandle, network string, to netip.AddrPort, name string, source netip.Addr) {
	w.t.Helper()
	answer, peer, err := w.ask(ns, network, to)
	if err != nil {
		w.t.Errorf("%s %s: %v", network, to, err)
		return
	}
	if want := fmt.Sprintf("%s %s\n", name, source); answer != want {
		w.t.Errorf("%s %s: answer %q, want %q", network, to, answer, want)
	}
	if peer != to.String() {
		w.t.Errorf("%s %s: the peer is shown as %s", network, to, peer)
	}
}

func (w *world) wantRefused(ns netns.NsHandle, network string, to netip.AddrPort) {
	w.t.Helper()
	begun := time.Now()
	_, _, err := w.ask(ns, network, to)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		w.t.Errorf("%s %s: %v, want connection refused", network, to, err)
	}
	if took := time.Since(begun); took > time.Second {
		w.t.Errorf("%s %s: refused after %v, want at once", network, to, took)
	}
}

func TestLive(t *testing.T) {
	w := newWorld(t)
	a, b, out := w.pod("a", podA), w.pod("b", podB), w.outside()
	for _, of := range []func(netip.AddrPort) netip.AddrPort{itself, six2} {
		w.serve(b, "b", of(at(podB, 80)))
		w.serve(out, "out", of(at(clientIP, 80)))
		w.serve(w.node, "node", of(at(nodeIP, 80)))
	}
	backend := list(at(podB, 80))
	w.services(tcp(1, list(at(vip, 80), at(anyIP, 30080)), backend))
	w.services(udp(2, list(at(vip, 80), at(anyIP, 30080)), backend))
	w.services(tcp(3, list(at(vip, 81), at(anyIP, 30081)), nil))
	w.services(udp(4, list(at(vip, 81), at(anyIP, 30081)), nil))
	w.services(tcp(5, list(at(vip, 82), at(anyIP, 30082)), list(at(nodeIP, 80))))
	w.services(udp(6, list(at(vip, 82), at(anyIP, 30082)), list(at(nodeIP, 80))))
	closed := list(at(podB, 9))
	w.services(tcp(7, list(at(vip, 83), at(anyIP, 30083)), closed))
	w.services(udp(8, list(at(vip, 83), at(anyIP, 30083)), closed))

	type row struct {
		name   string
		from   netns.NsHandle
		to     netip.AddrPort
		answer string     // who answers; empty: refused
		source netip.Addr // whom it sees
	}
	// run asks by TCP and UDP, IPv4 and IPv6.
	run := func(t *testing.T, rows []row) {
		for _, r := range rows {
			for _, network := range []string{"tcp4", "udp4", "tcp6", "udp6"} {
				t.Run(r.name+" "+network, func(t *testing.T) {
					r := r
					if network[3] == '6' {
						r.to, r.source = six2(r.to), six(r.source)
					}
					if r.answer == "" {
						w.with(t).wantRefused(r.from, network, r.to)
						return
					}
					w.with(t).wantAnswer(r.from, network, r.to, r.answer, r.source)
				})
			}
		}
	}
	both := []row{
		{"pod to pod", a, at(podB, 80), "b", podA},
		{"pod to service", a, at(vip, 80), "b", podA},
		{"node port from pod", a, at(nodeIP, 30080), "b", podA},
		{"masquerade", a, at(clientIP, 80), "out", nodeIP},
		{"pod to host", a, at(nodeIP, 80), "node", podA},
		{"pod to service on host", a, at(vip, 82), "node", podA},
		{"no endpoints", a, at(vip, 81), "", podA},
		{"no such service", a, at(vip, 9), "", podA},
		{"closed port of a backend", a, at(vip, 83), "", podA},
		{"closed port outside", a, at(clientIP, 9), "", podA},
		{"loopback of a pod is its own", a, at(loopback, 30080), "", podA},
	}
	t.Run("socket", func(t *testing.T) {
		w.with(t).translated(func() {
			run(t, both)
			run(t, []row{
				{"hairpin", b, at(vip, 80), "b", podB},
				{"host to service", w.node, at(vip, 80), "b", router},
				{"node port on node", w.node, at(nodeIP, 30080), "b", router},
			})
			cookie, err := skepnetns.Cookie()
			if err != nil {
				t.Fatal(err)
			}
			if cookie == 0 {
				t.Skip("the kernel does not tell namespaces apart: the initial one is the node, and all sockets are its own")
			}
			run(t, []row{
				{"node port on loopback", w.node, at(loopback, 30080), "b", router},
				// Below the same cgroup, but no socket of this node.
				{"node port from outside", out, at(nodeIP, 30080), "b", clientIP},
				{"node port on host from outside", out, at(nodeIP, 30082), "node", clientIP},
				{"service from outside", out, at(vip, 80), "b", clientIP},
				{"no endpoints from outside", out, at(vip, 81), "", clientIP},
			})
		})
	})
	t.Run("packet", func(t *testing.T) {
		run(t, both)
		run(t, []row{
			{"hairpin", b, at(vip, 80), "b", router},
			{"node port from outside", out, at(nodeIP, 30080), "b", clientIP},
			{"node port on host from outside", out, at(nodeIP, 30082), "node", clientIP},
			{"service from outside", out, at(vip, 80), "b", clientIP},
			{"no endpoints from outside", out, at(nodeIP, 30081), "", clientIP},
			{"closed port from outside", out, at(nodeIP, 30083), "", clientIP},
		})
	})
	w.reportDrops()
}

func itself(a netip.AddrPort) netip.AddrPort { return a }

// with gives the same world reporting to a subtest.
func (w *world) with(t *testing.T) *world {
	copied := *w
	copied.t = t
	return &copied
}

// reportDrops logs what was dropped and why.
func (w *world) reportDrops() {
	names, err := abi.ReadNames()
	if err != nil {
		w.t.Fatal(err)
	}
	for r, reason := range names.Reasons {
		for p, place := range names.Places {
			var perCPU []abi.DropCounter
			index := abi.DropIndex(abi.DropReason(r), abi.Place(p))
			if err := w.objects.Map(abi.MapDrop).Lookup(index, &perCPU); err != nil {
				w.t.Fatal(err)
			}
			var sum uint64
			for _, c := range perCPU {
				sum += c.Packets
			}
			if sum > 0 {
				w.t.Logf("dropped: %s at %s: %d", reason, place, sum)
			}
		}
	}
}
