package packet_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/trace"
)

// TestTrace follows packets through the programs that are attached to real devices, and looks for what they left.
func TestTrace(t *testing.T) {
	config := testConfig
	config.Dir = filepath.Join("/sys/fs/bpf", fmt.Sprintf("skep-test-trace-%d", os.Getpid()))
	t.Cleanup(func() { os.RemoveAll(config.Dir) })
	w := newWorldOf(t, config)
	w.pod("a0", podA)
	w.pod("b0", podB)
	w.outside()
	w.services(tcp(1, list(at(vip, 80), at(anyIP, 30080)), list(at(podB, 8080))))
	w.services(tcp(2, list(at(vip, 81)), nil))
	maps := filepath.Join(config.Dir, "maps")
	m, err := bpfmap.Open(maps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	for _, r := range []struct {
		name           string
		kind           trace.Kind
		source, target netip.AddrPort
		packets        bool
		want           string // verdict, reason, that of the answer
	}{
		{"pod to pod", trace.FromPod, at(podA, 0), b, false, "delivered  delivered"},
		{"pod to Service", trace.FromPod, at(podA, 0), at(vip, 80), false, "delivered  delivered"},
		{"pod to Service by packet", trace.FromPod, at(podA, 0), at(vip, 80), true, "delivered  delivered"},
		{"pod to itself by its Service", trace.FromPod, at(podB, 0), at(vip, 80), true, "delivered  delivered"},
		{"nobody serves", trace.FromPod, at(podA, 0), at(vip, 81), false, "refused no_backend "},
		{"nobody serves, by packet", trace.FromPod, at(podA, 0), at(vip, 81), true, "refused no_backend "},
		{"no Service", trace.FromPod, at(podA, 0), at(vip, 9), true, "refused no_service "},
		{"no pod", trace.FromPod, at(podA, 0), at(noPod, 80), false, "refused no_endpoint "},
		{"pod to its node", trace.FromPod, at(podA, 0), at(nodeIP, 22), false, "delivered  delivered"},
		{"pod to outside", trace.FromPod, at(podA, 0), at(clientIP, 80), false, "sent  delivered"},
		{"outside to node port", trace.FromOutside, at(clientIP, 0), at(nodeIP, 30080), false, "delivered  sent"},
		{"outside to a node port that nobody has", trace.FromOutside, at(clientIP, 0), at(nodeIP, 30081), false, "delivered  sent"},
		{"outside with a pod's address", trace.FromOutside, at(noPod, 0), b, false, "dropped spoofed "},
		{"node to Service", trace.FromNode, at(netip.Addr{}, 0), at(vip, 80), false, "delivered  delivered"},
	} {
		for _, of := range []func(netip.Addr) netip.Addr{func(a netip.Addr) netip.Addr { return a }, six} {
			request := trace.Request{Kind: r.kind, Target: at(of(r.target.Addr()), r.target.Port()), Protocol: desired.TCP, Packets: r.packets}
			if r.kind != trace.FromNode {
				request.Source = of(r.source.Addr())
			}
			w.in(w.node, func() {
				if r.source.Addr() == noPod { // by whichever device
					w.ip("route", "replace", request.Source.String(), "dev", "up0")
				}
				n, err := trace.OpenNode(config.Dir, maps)
				if err != nil {
					t.Errorf("%s: %v", r.name, err)
					return
				}
				got, err := trace.Walk(trace.View{Kernel: n, Maps: m}, request)
				if err != nil {
					t.Errorf("%s to %s: %v", r.name, request.Target, err)
				}
				if err := n.Close(); err != nil {
					t.Error(err)
				}
				if verdict := got.Verdict + " " + got.Reason + " " + got.Reply; verdict != r.want {
					t.Errorf("%s to %s: %q, want %q: %+v", r.name, request.Target, verdict, r.want, got.Hops)
				}
			})
		}
	}
	if err := m.Flows(func(f bpfmap.Flow) bool { t.Errorf("a flow is left: %+v", f); return true }); err != nil {
		t.Fatal(err)
	}
	var watch abi.Watch
	if err := w.objects.Map(abi.MapWatch).Lookup(uint32(0), &watch); err != nil || watch.On != 0 {
		t.Errorf("the programs still watch: %+v %v", watch, err)
	}
}
