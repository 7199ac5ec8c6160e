package packet_test

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/datapath/abi"
)

// costFlows is how many flows are in the table while packets are measured, costRuns how many packets are.
const (
	costFlows = 1 << 16
	costRuns  = 50_000
)

// TestCost prints what a packet costs each program, by BPF_PROG_TEST_RUN with 65,536 flows in the table: `make bench-packet`. Each
// run is one packet, since a program that rewrites it would not know it again: cold is a packet of a flow that had none for a
// walk over all the others, hot the next one of that flow. What the measure itself costs is in all rows.
func TestCost(t *testing.T) {
	if os.Getenv("SKEP_BENCH") == "" {
		t.Skip("a measurement: make bench-packet")
	}
	fmt.Printf("%-34s %22s %22s\n", "ns/packet, median (p25..p75)", "hot", "cold")
	for _, c := range []struct {
		name, program string
		verdict       uint32
		flags         abi.ServiceFlag
		parse         bool
	}{
		{"the measure itself, XDP (no IP)", abi.ProgFront, xdpPass, 0, true},
		{"XDP established: SNAT", abi.ProgFront, xdpTX, 0, false},
		{"XDP established: DSR", abi.ProgFront, xdpTX, abi.ServiceDSR, false},
		{"the measure itself, tc (no IP)", abi.ProgFromNet, pass, 0, true},
		{"tc established: SNAT", abi.ProgFromNet, redirect, 0, false},
		{"tc established: DSR", abi.ProgFromNet, redirect, abi.ServiceDSR, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFrontedOf(t, c.flags, 20000, 65535)
			// One backend would leave too few source ports for so many flows.
			backends := list(at(otherPod, 8080), at(otherPod, 8081), at(otherPod, 8082), at(otherPod, 8083))
			f.service(udp(2, list(at(anyIP, 30080)), backends))
			f.row(abi.MapService, uint32(2), abi.Service{Backends: uint32(len(backends)), Revision: 1, Flags: c.flags})
			flows := f.establish(t)
			if t.Failed() {
				return
			}
			if c.parse {
				for _, flow := range flows {
					flow[12] = 0xff
				}
			}
			f.in(f.node, func() {
				hot, cold := f.cost(t, c.program, c.verdict, flows)
				fmt.Printf("%-34s %22s %22s\n", c.name, spread(hot), spread(cold))
			})
		})
	}
}

// establish begins many flows by UDP and returns a packet of each.
func (f fronted) establish(t *testing.T) [][]byte {
	t.Helper()
	flows := make([][]byte, 0, costFlows)
	f.in(f.node, func() {
		program := f.objects.Program(abi.ProgFromNet)
		for i := range costFlows {
			client := netip.AddrFrom4([4]byte{192, 0, 2, 128 | byte(i>>14)})
			in := fromOut(udpFrame(at(client, uint16(1024+i&0x3fff)), at(nodeIP, 30080))).bytes()
			opts := ebpf.RunOptions{Data: in, Context: deviceContext(abi.ProgFromNet, f.index, len(in))}
			verdict, err := program.Run(&opts)
			if err != nil || verdict != redirect {
				t.Errorf("flow %d: verdict %d, %v", i, verdict, err)
				return
			}
			flows = append(flows, in)
		}
	})
	return flows
}

// cost runs the packets of flows drawn by a stride that visits all of them.
func (f fronted) cost(t *testing.T, name string, verdict uint32, flows [][]byte) (hot, cold []float64) {
	program := f.objects.Program(name)
	context := deviceContext(name, f.index, len(flows[0]))
	for i := range costRuns {
		flow := flows[i*40503%len(flows)]
		for _, list := range []*[]float64{&cold, &hot} {
			took, got, err := timed(program, flow, context)
			if err != nil || got != verdict {
				t.Fatalf("%s: verdict %d, want %d: %v", name, got, verdict, err)
			}
			*list = append(*list, took)
		}
	}
	return hot, cold
}

// timed runs a program once and returns the kernel's own measure of that in nanoseconds, and the verdict.
func timed(p *ebpf.Program, in, context []byte) (float64, uint32, error) {
	attr := struct {
		fd, verdict, sizeIn, sizeOut uint32
		in, out                      uint64
		repeat, duration             uint32
		contextIn, contextOut        uint32
		context, contextBack         uint64
		flags, cpu, batch, pad       uint32
	}{fd: uint32(p.FD()), sizeIn: uint32(len(in)), in: uint64(uintptr(unsafe.Pointer(&in[0]))), repeat: 1,
		contextIn: uint32(len(context)), context: uint64(uintptr(unsafe.Pointer(&context[0])))}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(in)
	runtime.KeepAlive(context)
	if errno != 0 {
		return 0, 0, errno
	}
	return float64(attr.duration), attr.verdict, nil
}

func spread(list []float64) string {
	if len(list) == 0 {
		return "-"
	}
	slices.Sort(list)
	n := len(list)
	return fmt.Sprintf("%.0f (%.0f..%.0f)", list[n/2], list[n/4], list[3*n/4])
}
