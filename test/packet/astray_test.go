package packet_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/skep-io/skep/datapath/abi"
)

// TestErrorsFollowDirect: an ICMP error about an answer that another node gave in this one's name is handed to that one, as it is, and
// not when it came from there.
func TestErrorsFollowDirect(t *testing.T) {
	families(t, func(t *testing.T, twin func(frame) []byte, l4 func(src, dst netip.AddrPort, flags uint8) frame) {
		f := newFronted(t, abi.ServiceDSR)
		front := at(nodeIP, 30080)
		f.begins(t, twin(fromOut(l4(out, front, syn))), twin(hopped(l4(out, front, syn))))
		large := report(tooLarge, hopIP, nodeIP, l4(front, out, ack))
		f.begins(t, twin(fromOut(large)), twin(hopped(large)))
		unknown := report(tooLarge, hopIP, nodeIP, l4(at(nodeIP, 30081), out, ack))
		for name, in := range map[string][]byte{"from the node of the backend": twin(fromOther(large)), "about another flow": twin(fromOut(unknown))} {
			if verdict, got := f.run(t, abi.ProgFromNet, in); verdict != pass || !bytes.Equal(in, got) {
				t.Errorf("%s: verdict %d, want %d, and the packet as it was: %x", name, verdict, pass, got)
			}
		}
	})
}

// TestExpiresInFront: who asks a Service that another node answers itself is told where a packet's hops end, opening or not.
func TestExpiresInFront(t *testing.T) {
	families(t, func(t *testing.T, twin func(frame) []byte, l4 func(src, dst netip.AddrPort, flags uint8) frame) {
		f := newFronted(t, abi.ServiceDSR)
		front := at(nodeIP, 30080)
		told := func(flags uint8) {
			t.Helper()
			last := expiring(fromOut(l4(out, front, flags)))
			verdict, got := f.run(t, abi.ProgFromNet, twin(last))
			want := twin(report(expired, nodeIP, clientIP, last))
			if verdict != redirect || !bytes.Equal(got[14:], want[14:]) {
				t.Errorf("verdict %d, want %d; answer\n%x, want\n%x", verdict, redirect, got[14:], want[14:])
			}
		}
		told(syn)
		f.run(t, abi.ProgFromNet, twin(fromOut(l4(out, front, syn))))
		told(ack)
	})
}

// TestDirectResumes: a connection that another node began goes on to its backend's node, which knows it, where nothing is translated.
// Else the client is told of a node port that its connection is unknown, and what other addresses are asked for is not for the node.
func TestDirectResumes(t *testing.T) {
	for _, r := range []struct {
		name    string
		flags   abi.ServiceFlag
		asked   netip.AddrPort
		handed  bool
		verdict uint32
	}{
		{"dsr load balancer", abi.ServiceDSR, at(lbIP, 80), false, redirect},
		{"dsr node port", abi.ServiceDSR, at(nodeIP, 30080), false, redirect},
		{"snat load balancer", 0, at(lbIP, 80), false, pass},
		{"snat node port", 0, at(nodeIP, 30080), false, redirect},
		{"dsr load balancer, from the node of the backend", abi.ServiceDSR, at(lbIP, 80), true, redirect},
	} {
		t.Run(r.name, func(t *testing.T) {
			f := newFronted(t, r.flags)
			for _, twin := range []func(frame) []byte{frame.bytes, func(f frame) []byte { return f.six().bytes() }} {
				in := fromOut(tcpFrame(out, r.asked, ack))
				if r.handed {
					in = fromOther(in)
				}
				verdict, got := f.run(t, abi.ProgFromNet, twin(in))
				if verdict != r.verdict {
					t.Errorf("verdict %d, want %d", verdict, r.verdict)
				}
				if want := twin(hopped(in)); r.flags != 0 && !r.handed != bytes.Equal(got[14:], want[14:]) {
					t.Errorf("packet\n%x, on its way it is\n%x", got, want)
				}
				if r.flags != 0 && !r.handed {
					f.same(t, twin(in), twin(hopped(in)), macOther)
				}
			}
		})
	}
}
