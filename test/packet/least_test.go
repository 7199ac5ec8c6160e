package packet_test

import (
	"bufio"
	"io"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
)

// loads returns how many sockets each backend has, by port.
func (w *world) loads() map[uint16]uint32 {
	w.t.Helper()
	got := map[uint16]uint32{}
	var key abi.LoadKey
	var sockets uint32
	rows := w.objects.Map(abi.MapLoad).Iterate()
	for rows.Next(&key, &sockets) {
		got[abi.HostPort(key.Port)] = sockets
	}
	if err := rows.Err(); err != nil {
		w.t.Error(err)
	}
	return got
}

func (w *world) wantLoads(when string, want map[uint16]uint32) {
	w.t.Helper()
	if got := w.loads(); !maps.Equal(got, want) {
		w.t.Errorf("%s: sockets by port %v, want %v", when, got, want)
	}
}

// TestLeast: of two backends the one with fewer connections gets the next, and what is closed is counted no more.
func TestLeast(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", podA), w.pod("b", podB)
	w.serve(b, "one", at(podB, 80))
	w.serve(b, "two", at(podB, 81))
	for _, s := range []service{tcp(1, list(at(vip, 80)), list(at(podB, 80), at(podB, 81))), udp(2, list(at(vip, 80)), list(at(podB, 80)))} {
		w.service(s)
	}
	w.row(abi.MapService, uint32(1), abi.Service{Backends: 2, Revision: 2, Flags: abi.ServiceLeast})
	w.row(abi.MapService, uint32(2), abi.Service{Backends: 1, Revision: 2, Flags: abi.ServiceLeast})
	w.in(a, func() {
		w.translated(func() {
			byName := map[string][]net.Conn{}
			for range 20 {
				w.hold(byName, at(vip, 80))
			}
			w.wantLoads("20 connections", map[uint16]uint32{80: 10, 81: 10})
			for _, c := range byName["one"][:6] {
				c.Close()
			}
			w.wantLoads("6 of one closed", map[uint16]uint32{80: 4, 81: 10})
			for range 6 {
				w.hold(byName, at(vip, 80))
			}
			w.wantLoads("6 more", map[uint16]uint32{80: 10, 81: 10})
			for _, list := range byName {
				for _, c := range list {
					c.Close()
				}
			}
			w.wantLoads("all closed", map[uint16]uint32{})
			w.reconnects(at(vip, 80))
			w.wantLoads("datagram socket closed", map[uint16]uint32{})
		})
	})
}

// hold connects, notes the connection by the name of the server, and leaves it open.
func (w *world) hold(byName map[string][]net.Conn, to netip.AddrPort) {
	w.t.Helper()
	c, err := net.DialTimeout("tcp", to.String(), patience)
	if err != nil {
		w.t.Error(err)
		return
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		w.t.Error(err)
		return
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		w.t.Error(err)
		return
	}
	name := strings.Fields(answer)[0]
	byName[name] = append(byName[name], c)
}

// reconnects connects one datagram socket again and again: it is counted once.
func (w *world) reconnects(to netip.AddrPort) {
	w.t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		w.t.Error(err)
		return
	}
	defer unix.Close(fd)
	for range 3 {
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
			w.t.Error(err)
		}
		w.wantLoads("connected again", map[uint16]uint32{80: 1})
	}
}
