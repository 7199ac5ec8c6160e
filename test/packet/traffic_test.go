package packet_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
)

// carried reads what a service has carried.
func carried(t *testing.T, o *load.Objects, service uint32) (sum abi.Traffic) {
	t.Helper()
	var perCPU []abi.Traffic
	if err := o.Map(abi.MapTraffic).Lookup(service, &perCPU); err != nil {
		t.Fatal(err)
	}
	for _, c := range perCPU {
		sum = sum.Add(c)
	}
	return sum
}

// TestTrafficOfPackets counts a connection that is translated packet by packet, when it has ended.
func TestTrafficOfPackets(t *testing.T) {
	web := at(vip, 80)
	o := testNode(t)
	frames := []frame{
		tcpFrame(a, web, syn), tcpFrame(b, a, syn|ack), tcpFrame(a, web, ack), tcpFrame(a, web, fin|ack), tcpFrame(b, a, fin|ack),
	}
	size := uint64(len(frames[0].bytes()))
	for _, h := range []hop{
		to(abi.ProgFromPod, fromA(frames[0]), redirect, fromA(tcpFrame(a, b, syn))),
		to(abi.ProgFromPod, fromB(frames[1]), redirect, fromB(tcpFrame(web, a, syn|ack))),
		to(abi.ProgFromPod, fromA(frames[2]), redirect, fromA(tcpFrame(a, b, ack))),
		to(abi.ProgFromPod, fromA(frames[3]), redirect, fromA(tcpFrame(a, b, fin|ack))),
		to(abi.ProgFromPod, fromB(frames[4]), redirect, fromB(tcpFrame(web, a, fin|ack))),
	} {
		h.check(t, o)
	}
	if got, want := carried(t, o, 1), (abi.Traffic{Flows: 1, Bytes: [2]uint64{size, 0}}); got != want {
		t.Errorf("while it lasts: %+v, want %+v", got, want)
	}
	to(abi.ProgFromPod, fromA(frames[2]), redirect, fromA(tcpFrame(a, b, ack))).check(t, o)
	if got, want := carried(t, o, 1), (abi.Traffic{Flows: 1, Bytes: [2]uint64{4 * size, 2 * size}}); got != want {
		t.Errorf("at its end: %+v, want %+v", got, want)
	}
	refused(abi.ProgFromPod, fromA(tcpFrame(a, at(vip, 81), syn)), reason("no_backend"),
		answered(tcpFrame(at(vip, 81), a, 0), rst|ack, 0, 101).macs(macHost, macA)).check(t, o)
	if got, want := carried(t, o, 3), (abi.Traffic{Refused: 1}); got != want {
		t.Errorf("nobody serves: %+v, want %+v", got, want)
	}
}

// TestTrafficOfSockets counts a connection that was translated in connect when it is closed, whichever end closes first, and leaves
// no row of it behind.
func TestTrafficOfSockets(t *testing.T) {
	w := newWorld(t)
	podOne, podTwo := w.pod("a", podA), w.pod("b", podB)
	w.serveTCP(podTwo, "b", at(podB, 80))
	w.service(tcp(1, list(at(vip, 80)), list(at(podB, 80))))
	w.service(tcp(2, list(at(vip, 81)), nil))
	w.service(tcp(3, list(at(vip, 82)), list(at(podB, 82)))) // nobody listens
	w.service(udp(4, list(at(vip, 83)), list(at(podB, 83))))
	question := strings.Repeat("x", 9999) + "\n"
	var answer string
	w.in(podOne, func() {
		w.translated(func() {
			for range 3 {
				c, err := net.DialTimeout("tcp4", at(vip, 80).String(), patience)
				if err != nil {
					t.Error(err)
					return
				}
				c.SetDeadline(time.Now().Add(patience))
				if _, err = io.WriteString(c, question); err == nil {
					answer, err = bufio.NewReader(c).ReadString('\n')
				}
				if err != nil {
					t.Error(err)
				}
				c.Close()
			}
			for _, port := range []uint16{81, 82} {
				if c, err := net.DialTimeout("tcp4", at(vip, port).String(), patience); err == nil {
					c.Close()
					t.Errorf("port %d answers", port)
				}
			}
			c, err := net.Dial("udp4", at(vip, 83).String())
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
		})
	})
	// The last segments are on their way when close returns.
	for deadline := time.Now().Add(patience); rowsOf(t, w.objects.Map(abi.MapPeer)) > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n := rowsOf(t, w.objects.Map(abi.MapPeer)); n > 0 {
		t.Errorf("%d sockets are still known", n)
	}
	got := carried(t, w.objects, 1)
	there, back := uint64(3*len(question)), uint64(3*len(answer))
	// TCP gives the end of each way a byte, which may be acknowledged or not when the connection is closed.
	if got.Sockets != 3 || got.Payload[0] < there || got.Payload[0] > there+3 || got.Payload[1] < back || got.Payload[1] > back+3 {
		t.Errorf("%+v, want 3 sockets with %d and %d bytes", got, there, back)
	}
	for service, want := range map[uint32]abi.Traffic{2: {Refused: 1}, 3: {Sockets: 1}, 4: {Sockets: 1}} {
		if got := carried(t, w.objects, service); got != want {
			t.Errorf("service %d: %+v, want %+v", service, got, want)
		}
	}
}

func rowsOf(t *testing.T, m *ebpf.Map) (n int) {
	t.Helper()
	var key, value []byte
	rows := m.Iterate()
	for rows.Next(&key, &value) {
		n++
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestTrafficOfMuch has a flow that has carried more than its entry can count.
func TestTrafficOfMuch(t *testing.T) {
	web := at(vip, 80)
	o := testNode(t)
	open := tcpFrame(a, web, syn)
	size := uint64(len(open.bytes()))
	to(abi.ProgFromPod, fromA(open), redirect, fromA(tcpFrame(a, b, syn))).check(t, o)
	const much = 1<<31 + 100
	var key abi.ConntrackKey
	var value abi.Conntrack
	all := map[abi.ConntrackKey]abi.Conntrack{}
	for rows := o.Map(abi.MapConntrack).Iterate(); rows.Next(&key, &value); {
		all[key] = value
	}
	for key, value := range all {
		value.Bytes = much
		if err := o.Map(abi.MapConntrack).Put(key, value); err != nil {
			t.Fatal(err)
		}
	}
	to(abi.ProgFromPod, fromA(tcpFrame(a, web, ack)), redirect, fromA(tcpFrame(a, b, ack))).check(t, o)
	if got, want := carried(t, o, 1), (abi.Traffic{Flows: 1, Bytes: [2]uint64{size + much, 0}}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	to(abi.ProgFromPod, fromB(tcpFrame(b, a, syn|ack)), redirect, fromB(tcpFrame(web, a, syn|ack))).check(t, o)
	if got, want := carried(t, o, 1), (abi.Traffic{Flows: 1, Bytes: [2]uint64{size + much, much}}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
