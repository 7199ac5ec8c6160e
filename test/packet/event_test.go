package packet_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/load"
	"github.com/skep-io/skep/datapath/observe"
)

// watched begins to watch; of known flows one in every packets is told.
func watched(tb testing.TB, o *load.Objects, every uint32) *observe.Watch {
	tb.Helper()
	w, err := observe.NewWatch(o.Map(abi.MapEvents), o.Map(abi.MapWatch), every)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := w.Close(); err != nil {
			tb.Error(err)
		}
	})
	return w
}

// told reads all events that there are.
func told(t *testing.T, w *observe.Watch) []abi.Event {
	t.Helper()
	w.SetDeadline(time.Now())
	var all []abi.Event
	for {
		e, err := w.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
}

// line says what an event does, in the words of the tests below.
func line(t *testing.T, e abi.Event) string {
	t.Helper()
	names, err := abi.ReadNames()
	if err != nil {
		t.Fatal(err)
	}
	end := func(a abi.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a.Netip(), abi.HostPort(port)) }
	s := fmt.Sprintf("%s %s %d %s>%s", names.Kinds[e.Kind], names.Places[e.Place], e.Proto, end(e.Src, e.Sport), end(e.Dst, e.Dport))
	if e.NewSport != 0 || e.NewDport != 0 {
		s += fmt.Sprintf(" %s>%s", end(e.NewSrc, e.NewSport), end(e.NewDst, e.NewDport))
	}
	if e.Service != 0 {
		s += fmt.Sprintf(" service %d", e.Service)
	}
	if e.Kind == uint8(abi.EventDrop) {
		s += " " + names.Reasons[e.Reason]
	}
	if e.Egress != 0 || e.Ingress != 0 {
		s += fmt.Sprintf(" sets %d %d", e.Egress, e.Ingress)
	}
	if e.Reply != 0 {
		s += " reply"
	}
	return s
}

// TestEvents reads what the programs tell of packets.
func TestEvents(t *testing.T) {
	web := at(vip, 80)
	for _, r := range []struct {
		name  string
		every uint32
		rows  func(policies)
		life  []hop
		want  []string
	}{
		{"a connection through a service, from opening to end", 0, nil, []hop{
			to(abi.ProgFromPod, fromA(tcpFrame(a, web, syn)), redirect, fromA(tcpFrame(a, b, syn))),
			to(abi.ProgFromPod, fromB(tcpFrame(b, a, syn|ack)), redirect, fromB(tcpFrame(web, a, syn|ack))),
			to(abi.ProgFromPod, fromA(tcpFrame(a, web, fin|ack)), redirect, fromA(tcpFrame(a, b, fin|ack))),
			to(abi.ProgFromPod, fromB(tcpFrame(b, a, fin|ack)), redirect, fromB(tcpFrame(web, a, fin|ack))),
			to(abi.ProgFromPod, fromA(tcpFrame(a, web, ack)), redirect, fromA(tcpFrame(a, b, ack))),
		}, []string{
			"new from_pod 6 10.244.0.2:40000>10.97.0.20:80 [::]:0>10.244.0.3:8080 service 1",
			"end from_pod 6 10.244.0.2:40000>10.97.0.20:80 [::]:0>10.244.0.3:8080 service 1",
		}},
		{"a connection between pods that is reset", 0, nil, []hop{
			to(abi.ProgFromPod, fromA(tcpFrame(a, b, syn)), redirect),
			to(abi.ProgFromPod, fromB(tcpFrame(b, a, rst)), redirect),
		}, []string{
			"new from_pod 6 10.244.0.2:40000>10.244.0.3:8080",
			"end from_pod 6 10.244.0.3:8080>10.244.0.2:40000",
		}},
		{"one in two packets of a known flow", 2, nil, []hop{
			to(abi.ProgFromPod, fromA(udpFrame(a, web)), redirect, fromA(udpFrame(a, b))),
			to(abi.ProgFromPod, fromB(udpFrame(b, a)), redirect, fromB(udpFrame(web, a))),
			to(abi.ProgFromPod, fromB(udpFrame(b, a)), redirect, fromB(udpFrame(web, a))),
			to(abi.ProgFromPod, fromA(udpFrame(a, web)), redirect, fromA(udpFrame(a, b))),
			to(abi.ProgFromPod, fromA(udpFrame(a, web)), redirect, fromA(udpFrame(a, b))),
		}, []string{
			"new from_pod 17 10.244.0.2:40000>10.97.0.20:80 [::]:0>10.244.0.3:8080 service 2",
			"packet from_pod 17 10.244.0.3:8080>10.244.0.2:40000 10.97.0.20:80>[::]:0 service 2 reply",
			"packet from_pod 17 10.244.0.2:40000>10.97.0.20:80 [::]:0>10.244.0.3:8080 service 2",
		}},
		{"nobody serves", 0, nil, []hop{
			refused(abi.ProgFromPod, fromA(tcpFrame(a, at(vip, 81), syn)), reason("no_backend"),
				answered(tcpFrame(at(vip, 81), a, 0), rst|ack, 0, 101).macs(macHost, macA)),
		}, []string{"drop from_pod 6 10.244.0.2:40000>10.97.0.20:81 service 3 no_backend"}},
		{"an address that is not the pod's", 0, nil, []hop{
			refused(abi.ProgFromPod, fromA(udpFrame(at(podB, 1), a)), reason("spoofed")),
		}, []string{"drop from_pod 17 10.244.0.3:1>10.244.0.2:40000 spoofed"}},
		{"policies deny", 0, func(p policies) { p.allow(egressA, whoB, abi.PortsAll) }, []hop{
			denied(abi.ProgFromPod, fromA(tcpFrame(a, web, syn)), "policy_ingress"),
			denied(abi.ProgFromNet, fromOut(udpFrame(out, b)), "policy_ingress"),
		}, []string{
			"drop from_pod 6 10.244.0.2:40000>10.97.0.20:80 [::]:0>10.244.0.3:8080 service 1 policy_ingress sets 1 2",
			"drop from_net 17 192.0.2.2:50000>10.244.0.3:8080 policy_ingress sets 0 2",
		}},
		{"policies allow", 0, func(p policies) {
			p.allow(egressA, whoB, abi.PortsAll)
			p.allow(ingressB, whoA, abi.PortsAll)
		}, []hop{
			to(abi.ProgFromPod, fromA(tcpFrame(a, b, syn)), redirect),
		}, []string{"new from_pod 6 10.244.0.2:40000>10.244.0.3:8080 sets 1 2"}},
		{"masqueraded", 0, nil, []hop{
			to(abi.ProgToNet, udpFrame(a, out), pass, udpFrame(snat, out)),
		}, []string{"new to_net 17 10.244.0.2:40000>192.0.2.2:50000 192.0.2.1:61000>[::]:0"}},
	} {
		t.Run(r.name, func(t *testing.T) {
			o := testNode(t)
			if r.rows != nil {
				r.rows(isolate(t, o, egressA, ingressB))
			}
			w := watched(t, o, r.every)
			for _, h := range r.life {
				h.check(t, o)
			}
			all := told(t, w)
			for i := range max(len(all), len(r.want)) {
				got, want := "none", "none"
				if i < len(all) {
					got = line(t, all[i])
				}
				if i < len(r.want) {
					want = r.want[i]
				}
				if got != want {
					t.Errorf("event %d: got\n%s, want\n%s", i, got, want)
				}
			}
			for _, e := range all {
				if e.Ifindex != lo || e.Length == 0 || e.Time == 0 {
					t.Errorf("device %d, length %d, time %d", e.Ifindex, e.Length, e.Time)
				}
			}
		})
	}
}

// TestWatchExpires lets a watcher vanish: the programs stop by themselves.
func TestWatchExpires(t *testing.T) {
	o := testNode(t)
	w := watched(t, o, 1)
	row := abi.Watch{On: 1, Every: 1, Until: 1} // a deadline long ago
	if err := o.Map(abi.MapWatch).Put(uint32(0), row); err != nil {
		t.Fatal(err)
	}
	to(abi.ProgFromPod, fromA(udpFrame(a, b)), redirect).check(t, o)
	if err := o.Map(abi.MapWatch).Lookup(uint32(0), &row); err != nil {
		t.Fatal(err)
	}
	if row.On != 0 {
		t.Error("the programs still watch")
	}
	if all := told(t, w); len(all) != 0 {
		t.Errorf("%d events after the deadline", len(all))
	}
}

// TestEventsLost fills the ring: what finds no room is counted, and packets pass.
func TestEventsLost(t *testing.T) {
	o := testNode(t)
	w := watched(t, o, 1)
	in := fromA(udpFrame(a, b)).bytes()
	const packets = 5000
	if _, _, err := o.Program(abi.ProgFromPod).Benchmark(in, packets, nil); err != nil {
		t.Fatal(err)
	}
	all := told(t, w)
	lost, err := w.Lost()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 || lost == 0 || len(all)+int(lost) != packets {
		t.Errorf("%d events and %d lost of %d packets", len(all), lost, packets)
	}
}

// BenchmarkWatched measures a packet of a known flow while nobody watches, while somebody watches flows, and while one packet in
// 1024 is told too: in turns, for a machine's speed drifts by more than the difference. It reports the medians.
func BenchmarkWatched(b0 *testing.B) {
	const rounds = 21
	o := testNode(b0)
	in := fromA(udpFrame(a, b)).bytes()
	run(b0, o, abi.ProgFromPod, in)
	took := map[string][]float64{}
	measure := func(name string) {
		_, each, err := o.Program(abi.ProgFromPod).Benchmark(in, max(b0.N/rounds, 1), nil)
		if err != nil {
			b0.Fatal(err)
		}
		took[name] = append(took[name], float64(each.Nanoseconds()))
	}
	watching := func(name string, every uint32) {
		w, err := observe.NewWatch(o.Map(abi.MapEvents), o.Map(abi.MapWatch), every)
		if err != nil {
			b0.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				if _, err := w.Read(); err != nil {
					return // closed
				}
			}
		}()
		measure(name)
		if err := w.Close(); err != nil {
			b0.Fatal(err)
		}
		<-done
	}
	for range rounds {
		measure("off")
		watching("flows", 0)
		watching("sampled", 1024)
	}
	for name, list := range took {
		slices.Sort(list)
		b0.ReportMetric(list[len(list)/2], name+"-ns/packet")
	}
}
