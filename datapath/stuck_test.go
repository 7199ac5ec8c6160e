package datapath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/datapath/bpfmap"
)

// TestStuckSockets connects sockets of a pod and of the node to a Service by TCP and UDP, takes the backend away, and expects each
// of them to be told; those of another backend are left alone.
func TestStuckSockets(t *testing.T) {
	n := startNode(t)
	client, gone, stays := n.addPod(t, "client"), n.addPod(t, "gone"), n.addPod(t, "stays")
	n.addService(t, "gone", "10.97.0.7", 30080, gone)
	n.addService(t, "stays", "10.97.0.8", 30081, stays)
	n.serveSilently(t, gone, stays)

	const each = 250
	ended := make(chan error, 4*each)
	var kept []net.Conn
	for _, from := range []*os.File{client.ns, nil} {
		in(t, from, func() error {
			for range each {
				for _, network := range []string{"tcp4", "udp4"} {
					c, err := net.Dial(network, "10.97.0.7:80")
					if err != nil {
						return err
					}
					t.Cleanup(func() { c.Close() })
					go func() {
						_, err := c.Read(make([]byte, 1))
						ended <- err
					}()
				}
			}
			for _, network := range []string{"tcp4", "udp4"} {
				c, err := net.Dial(network, "10.97.0.8:80")
				if err != nil {
					return err
				}
				t.Cleanup(func() { c.Close() })
				kept = append(kept, c)
			}
			// It asked for the Service once, and has left it for an address of its own.
			c, err := net.Dial("udp4", "10.97.0.7:80")
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			kept = append(kept, c)
			return reconnect(c.(*net.UDPConn), netip.AddrPortFrom(stays.address, 9))
		})
	}
	setTerminating := func(s *discoveryv1.EndpointSlice) {
		yes, no := true, false
		for i := range s.Endpoints {
			s.Endpoints[i].Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
		}
	}
	n.changeSlices(t, setTerminating)
	select {
	case err := <-ended:
		t.Fatalf("a terminating backend lost a connection: %v", err)
	case <-time.After(100 * time.Millisecond): // nothing is to happen
	}
	begun := time.Now()
	n.changeSlicesOf(t, "gone", func(s *discoveryv1.EndpointSlice) { s.Endpoints = nil })
	for i := range 4 * each {
		select {
		case err := <-ended:
			if err == nil || err == io.EOF {
				t.Fatalf("a socket ended with %v, want an error", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%d of %d sockets are stuck", 4*each-i, 4*each)
		}
	}
	t.Logf("%d sockets were reset within %v of the event", 4*each, time.Since(begun))
	for _, c := range kept {
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !os.IsTimeout(err) {
			t.Errorf("%s to a backend that stays: %v", c.RemoteAddr().Network(), err)
		}
	}
}

// serveSilently has the pods serve by TCP at port 81, where connections stay open, instead of where they did.
func (n *node) serveSilently(t *testing.T, pods ...pod) {
	t.Helper()
	for _, p := range pods {
		in(t, p.ns, func() error {
			l, err := net.Listen("tcp4", fmt.Sprintf("%s:81", p.address))
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go hold(l)
			return nil
		})
	}
	n.changeSlices(t, func(s *discoveryv1.EndpointSlice) {
		for i := range s.Ports {
			if s.Ports[i].Protocol != nil && *s.Ports[i].Protocol == "TCP" {
				port := int32(81)
				s.Ports[i].Port = &port
			}
		}
	})
	n.awaitDump(t, func(dump string) bool {
		for _, p := range pods {
			if !strings.Contains(dump, p.address.String()+":81") {
				return false
			}
		}
		return true
	})
}

// announce makes the pod's object.
func (n *node) announce(t *testing.T, p pod) {
	t.Helper()
	_, err := n.client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: p.name, UID: types.UID("uid-" + p.name)},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: p.address.String(), PodIPs: []corev1.PodIP{{IP: p.address.String()}}},
	}, metav1.CreateOptions{})
	must(t, err)
}

// TestPodsThatVanish: a stream to a backend that leaves its Service without a word goes on, until its pod is gone: also when that
// happens while the node's process is down. Streams to other pods go on.
func TestPodsThatVanish(t *testing.T) {
	n := startNode(t)
	client := n.addPod(t, "client")
	vanish, missed, stays := n.addPod(t, "vanish"), n.addPod(t, "missed"), n.addPod(t, "stays")
	conns := map[string]net.Conn{}
	for i, p := range []pod{vanish, missed, stays} {
		n.announce(t, p)
		n.addService(t, p.name, fmt.Sprintf("10.97.0.%d", 7+i), int32(30080+i), p)
	}
	n.serveSilently(t, vanish, missed, stays)
	in(t, client.ns, func() error {
		for i, p := range []pod{vanish, missed, stays} {
			c, err := net.Dial("tcp4", fmt.Sprintf("10.97.0.%d:80", 7+i))
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			conns[p.name] = c
		}
		return nil
	})
	open := func(name string) {
		t.Helper()
		must(t, conns[name].SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		if _, err := conns[name].Read(make([]byte, 1)); !os.IsTimeout(err) {
			t.Errorf("stream to %s: %v, want that it is open", name, err)
		}
	}
	reset := func(name string) {
		t.Helper()
		must(t, conns[name].SetReadDeadline(time.Now().Add(10*time.Second)))
		if _, err := conns[name].Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("stream to %s: %v, want that it is reset", name, err)
		}
	}
	remove := func(name string) {
		t.Helper()
		must(t, n.client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	n.changeSlicesOf(t, "vanish", func(s *discoveryv1.EndpointSlice) { s.Endpoints = nil })
	n.awaitDump(t, func(dump string) bool { return !strings.Contains(dump, vanish.address.String()+":81") })
	open("vanish")
	remove("vanish")
	reset("vanish")
	open("missed")

	n.Close()
	remove("missed")
	n.changeSlicesOf(t, "missed", func(s *discoveryv1.EndpointSlice) { s.Endpoints = nil })
	n.start(t)
	reset("missed")
	open("stays")
}

// TestFlowsToPodsThatVanish: packets of a flow from outside are not sent to whom gets the address of a pod on another node.
func TestFlowsToPodsThatVanish(t *testing.T) {
	n := startNode(t)
	away := pod{name: "away", address: netip.MustParseAddr("10.244.9.9")}
	n.announce(t, away)
	n.addService(t, "away", "10.97.0.7", 30080, away)
	flows := func() (count int) {
		must(t, n.Maps().Flows(func(f bpfmap.Flow) bool {
			if f.Touches(map[netip.Addr]struct{}{away.address: {}}) {
				count++
			}
			return true
		}))
		return count
	}
	in(t, outside, func() error {
		// Nobody answers.
		_, err := net.DialTimeout("tcp4", "192.0.2.1:30080", 50*time.Millisecond)
		if err == nil {
			return errors.New("a pod that does not exist answers")
		}
		return nil
	})
	if flows() != 2 {
		t.Fatalf("%d entries of the flow, want both its sides", flows())
	}
	must(t, n.client.CoreV1().Pods("default").Delete(t.Context(), away.name, metav1.DeleteOptions{}))
	for begun := time.Now(); flows() > 0; time.Sleep(time.Millisecond) {
		if time.Since(begun) > 10*time.Second {
			t.Fatal("the flow is still known")
		}
	}
}

// TestStuckSocketsOfBefore takes a backend away while the node's process is down: the next one resets who is stuck with it, and
// nobody else.
func TestStuckSocketsOfBefore(t *testing.T) {
	n := startNode(t)
	client, gone, stays := n.addPod(t, "client"), n.addPod(t, "gone"), n.addPod(t, "stays")
	n.addService(t, "gone", "10.97.0.7", 30080, gone)
	n.addService(t, "stays", "10.97.0.8", 30081, stays)
	var stuck, kept []net.Conn
	for _, from := range []*os.File{client.ns, nil} {
		in(t, from, func() error {
			for to, list := range map[string]*[]net.Conn{"10.97.0.7:80": &stuck, "10.97.0.8:80": &kept} {
				c, err := net.Dial("udp4", to)
				if err != nil {
					return err
				}
				t.Cleanup(func() { c.Close() })
				*list = append(*list, c)
			}
			return nil
		})
	}
	n.Close()
	n.changeSlicesOf(t, "gone", func(s *discoveryv1.EndpointSlice) { s.Endpoints = nil })
	n.start(t)
	for _, c := range stuck {
		must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("a socket to a backend that went: %v, want that it is reset", err)
		}
	}
	for _, c := range kept {
		must(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		if _, err := c.Read(make([]byte, 1)); !os.IsTimeout(err) {
			t.Errorf("a socket to a backend that stays: %v", err)
		}
	}
}

// reconnect connects a socket anew.
func reconnect(c *net.UDPConn, to netip.AddrPort) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.Connect(int(fd), &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	})
	return errors.Join(err, failed)
}

// hold accepts connections and says nothing.
func hold(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(io.Discard, c)
		}()
	}
}

// changeSlices changes all EndpointSlices, changeSlicesOf those of one Service.
func (n *node) changeSlices(t *testing.T, change func(*discoveryv1.EndpointSlice)) {
	t.Helper()
	n.changeSlicesOf(t, "", change)
}

func (n *node) changeSlicesOf(t *testing.T, service string, change func(*discoveryv1.EndpointSlice)) {
	t.Helper()
	slices := n.client.DiscoveryV1().EndpointSlices("default")
	list, err := slices.List(context.Background(), metav1.ListOptions{})
	must(t, err)
	for i := range list.Items {
		s := &list.Items[i]
		if service != "" && s.Labels[discoveryv1.LabelServiceName] != service {
			continue
		}
		change(s)
		_, err := slices.Update(context.Background(), s, metav1.UpdateOptions{})
		must(t, err)
	}
}
