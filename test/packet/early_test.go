package packet_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
)

// TestEarlyFragmentGivesUp sends a fragment whose first one never comes.
func TestEarlyFragmentGivesUp(t *testing.T) {
	o := testNode(t)
	late := fromA(rest(podA, vip)).bytes()
	rounds := 0
	for verdict := uint32(redirect); verdict == redirect; rounds++ {
		if rounds > 10_000 {
			t.Fatal("it goes round for ever")
		}
		verdict, _ = run(t, o, abi.ProgFromPod, late)
	}
	if rounds < 1000 {
		t.Errorf("it went round %d times only", rounds)
	}
	refused(abi.ProgFromPod, fromA(rest(podA, vip)), reason("fragment")).check(t, o)
	// Its first one may come all the same.
	to(abi.ProgFromPod, fromA(fragmented(udpFrame(a, at(vip, 80)), 0x2000)), redirect, fromA(fragmented(udpFrame(a, b), 0x2000))).check(t, o)
	to(abi.ProgFromPod, fromA(rest(podA, vip)), redirect, fromA(rest(podA, podB))).check(t, o)
}

// TestEarlyFragmentsCostLittle sends more of them than a CPU has rounds for.
func TestEarlyFragmentsCostLittle(t *testing.T) {
	o := testNode(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Error(err)
		}
	}()
	if err := pin(0); err != nil {
		t.Fatal(err)
	}
	for id := range uint16(100) {
		late := fromA(rest(podA, vip)).bytes()
		binary.BigEndian.PutUint16(late[18:], id+1)
		verdict, err := o.Program(abi.ProgFromPod).Run(&ebpf.RunOptions{Data: late, Repeat: 8000})
		if err != nil {
			t.Fatal(err)
		}
		if verdict == drop {
			return
		}
	}
	t.Error("each of a hundred fragments went round 8,000 times within a moment")
}

// pin leaves the thread the n-th CPU that it may run on.
func pin(n int) error {
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return err
	}
	n %= may.Count()
	for cpu := 0; ; cpu++ {
		if !may.IsSet(cpu) {
			continue
		}
		if n--; n < 0 {
			one.Set(cpu)
			return unix.SchedSetaffinity(0, &one)
		}
	}
}

// datagram is a datagram in two fragments, as IP packets.
func datagram(src, dst netip.AddrPort) (first, last []byte) {
	whole := udpFrame(src, dst)
	whole.payload = strings.Repeat("a long datagram\n", 100)
	l4 := whole.l4()
	const cut = 1008
	part := func(raw []byte, fragment uint16) []byte {
		f := whole
		f.raw, f.fragment = raw, fragment
		b := f.bytes()[14:]
		if !f.v6() {
			binary.BigEndian.PutUint16(b[4:], src.Port()) // an id, for the kernel not to choose one for each; it makes the checksum
		}
		return b
	}
	return part(l4[:cut], 0x2000), part(l4[cut:], cut/8)
}

// TestLiveFragmentsOutOfOrder sends fragments over real devices, the last one first. Sockets of this kind are not translated.
func TestLiveFragmentsOutOfOrder(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("on one CPU the sender waits while its fragment goes round")
	}
	w := newWorld(t)
	defer w.reportDrops()
	a, b, out := w.pod("a", podA), w.pod("b", podB), w.outside()
	for _, of := range []func(netip.AddrPort) netip.AddrPort{itself, six2} {
		w.serveUDP(b, "b", of(at(podB, 80)))
	}
	w.services(udp(2, list(at(vip, 80), at(anyIP, 30080)), list(at(podB, 80))))
	for _, r := range []struct {
		name     string
		from     netns.NsHandle
		src, dst netip.AddrPort
	}{
		{"pod to pod", a, at(podA, 4001), at(podB, 80)},
		{"pod to service", a, at(podA, 4002), at(vip, 80)},
		{"node port from outside", out, at(clientIP, 4003), at(nodeIP, 30080)},
	} {
		t.Run(r.name, func(t *testing.T) { w.with(t).wantWhole(r.from, r.src, r.dst) })
		t.Run(r.name+" v6", func(t *testing.T) { w.with(t).wantWhole(r.from, six2(r.src), six2(r.dst)) })
	}
}

// wantWhole sends datagrams in two fragments, the last one first, until there is an answer: on a busy machine the first fragment may
// come too late.
func (w *world) wantWhole(ns netns.NsHandle, src, dst netip.AddrPort) {
	w.t.Helper()
	var err error
	for range 20 {
		src = netip.AddrPortFrom(src.Addr(), src.Port()+10)
		w.in(ns, func() { err = askInFragments(src, dst) })
		if err == nil {
			return
		}
	}
	w.t.Errorf("none of 20 datagrams was answered: %v", err)
}

// askInFragments sends a datagram and wants an answer.
func askInFragments(src, dst netip.AddrPort) error {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(src))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := sendInFragments(src, dst); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		return err
	}
	buf := make([]byte, 100)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		return err
	}
	if answer := string(buf[:n]); !strings.HasPrefix(answer, "b ") || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != dst {
		return fmt.Errorf("answer %q from %s", answer, from)
	}
	return nil
}

// sendInFragments sends the last fragment, and soon after that the first one from another CPU, as from another queue of a network card:
// the CPU on which a fragment goes round holds its sender up.
func sendInFragments(src, dst netip.AddrPort) error {
	first, last := datagram(src, dst)
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: dst.Addr().As16()})
	if dst.Addr().Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: dst.Addr().As4()}
	}
	raw, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(raw)
	var going sync.WaitGroup
	going.Add(2)
	sent := make(chan error, 2)
	for i, packet := range [][]byte{last, first} {
		go func() {
			runtime.LockOSThread() // never unlocked, for the thread keeps its CPU
			err := pin(i)
			going.Done()
			going.Wait()
			for began := time.Now(); i > 0 && time.Since(began) < 100*time.Microsecond; {
			}
			sent <- errors.Join(err, unix.Sendto(raw, packet, 0, to))
		}()
	}
	return errors.Join(<-sent, <-sent)
}
