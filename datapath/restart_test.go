package datapath

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/podnet"
)

// prober connects again and again until it is stopped.
type prober struct {
	name   string
	made   atomic.Int64
	failed []error
	done   chan struct{}
}

// probe starts a prober in a namespace; nil means the node's. A closed stop ends it.
func probe(from *os.File, network, to string, stop <-chan struct{}) *prober {
	p := &prober{name: network + " " + to, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		runtime.LockOSThread() // never unlocked: the thread ends here
		if from != nil {
			if err := unix.Setns(int(from.Fd()), unix.CLONE_NEWNET); err != nil {
				p.failed = append(p.failed, err)
				return
			}
		}
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := exchange(network, to); err != nil {
				p.failed = append(p.failed, err)
			}
			p.made.Add(1)
			// Leave the processors to the node.
			time.Sleep(time.Millisecond)
		}
	}()
	return p
}

// TestNewConnectionsWhileRestarting makes connections all the time while the node's process goes and comes, each time with new
// programs in place of the old ones. None may fail, and nothing may be dropped, such as what a pod's own stack sends unasked.
func TestNewConnectionsWhileRestarting(t *testing.T) {
	restart(t, 20, func(*testing.T, *node) {})
}

// TestNewConnectionsWhileUpgrading does so with pinned maps of another layout, as an earlier or later version would leave them. Only
// the flow table is as it was: flows that are translated by packet and begin between the first and the last program to be replaced
// would be in one of two tables.
func TestNewConnectionsWhileUpgrading(t *testing.T) {
	restart(t, 5, func(t *testing.T, n *node) {
		for _, name := range []string{abi.MapFrontend, abi.MapService, abi.MapSlot, abi.MapEndpoint, abi.MapNetns, abi.MapNode, abi.MapPeer} {
			n.widen(t, name)
		}
	})
}

// widen puts a map with longer values in the place of a pinned one. The programs at work keep the one that they have.
func (n *node) widen(t *testing.T, name string) {
	t.Helper()
	path := filepath.Join(MapsDir(n.cfg.BPFDir), name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	must(t, err)
	defer m.Close()
	wide, err := ebpf.NewMap(&ebpf.MapSpec{Type: m.Type(), KeySize: m.KeySize(), ValueSize: m.ValueSize() + 8, MaxEntries: m.MaxEntries(), Flags: m.Flags()})
	must(t, err)
	defer wide.Close()
	var key, value []byte
	for rows := m.Iterate(); rows.Next(&key, &value); {
		must(t, wide.Put(key, append(value, 1, 2, 3, 4, 5, 6, 7, 8)))
	}
	must(t, os.Remove(path))
	must(t, wide.Pin(path))
}

// restart makes connections while the node stops and starts; between is called while it is stopped.
func restart(t *testing.T, times int, between func(*testing.T, *node)) {
	t.Helper()
	n := startNode(t)
	a, b := n.addPod(t, "a"), n.addPod(t, "b")
	n.addService(t, "both", "10.97.0.7", 30080, a, b)
	stop := make(chan struct{})
	var probers []*prober
	for _, network := range []string{"tcp4", "udp4"} {
		probers = append(probers,
			probe(nil, network, "10.97.0.7:80", stop),
			probe(b.ns, network, "10.97.0.7:80", stop),
			probe(b.ns, network, "192.0.2.1:30080", stop),
			probe(outside, network, "192.0.2.1:30080", stop),
			probe(outside, network, "10.97.0.7:80", stop),
		)
	}
	for range times {
		n.Close()
		between(t, n)
		awaitProgress(t, probers)
		n.start(t)
		awaitProgress(t, probers)
	}
	close(stop)
	drops, err := n.Maps().Drops()
	must(t, err)
	for _, d := range drops {
		if d.Packets > 0 {
			t.Errorf("dropped for %s at %s: %d packets, want none", d.Reason, d.Place, d.Packets)
		}
	}
	for _, p := range probers {
		<-p.done
		t.Logf("%s: %d connections", p.name, p.made.Load())
		if len(p.failed) > 0 {
			t.Errorf("%s: %d of %d failed, the first one: %v", p.name, len(p.failed), p.made.Load(), p.failed[0])
		}
	}
}

// awaitProgress waits until every prober has made a connection that began after the call.
func awaitProgress(t *testing.T, probers []*prober) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for _, p := range probers {
		for want := p.made.Load() + 2; p.made.Load() < want; {
			if time.Now().After(deadline) {
				t.Fatalf("%s: stuck after %d connections", p.name, p.made.Load())
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// BenchmarkAttach is what the network adds to a pod's start, and to its end.
func BenchmarkAttach(b *testing.B) {
	n := startNode(b)
	var attach, detach time.Duration
	for i := range b.N {
		uid := fmt.Sprint("uid-", i)
		start := time.Now()
		_, err := n.Attach(b.Context(), podnet.Pod{UID: uid, Namespace: "default", Name: "bench"})
		must(b, err)
		attach += time.Since(start)
		start = time.Now()
		must(b, n.Detach(b.Context(), uid))
		detach += time.Since(start)
	}
	b.ReportMetric(float64(attach.Microseconds())/float64(b.N), "attach-us")
	b.ReportMetric(float64(detach.Microseconds())/float64(b.N), "detach-us")
}
