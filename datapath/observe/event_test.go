package observe

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/skep-io/skep/datapath/abi"
)

// denial is a packet of a pod to a Service that a policy of the backend denies.
func denial(t *testing.T) Event {
	t.Helper()
	teller, err := NewTeller()
	must(t, err)
	must(t, teller.SetNames(filled(t), names))
	policy := 0
	for i, name := range teller.kernel.Reasons {
		if name == "policy_ingress" {
			policy = i
		}
	}
	e := abi.Event{
		Src: abi.AddrFrom(netip.MustParseAddr("10.244.0.9")), Sport: abi.Port(4000),
		Dst: abi.AddrFrom(netip.MustParseAddr("10.96.0.1")), Dport: abi.Port(80),
		NewDst: abi.AddrFrom(netip.MustParseAddr("10.244.0.2")), NewDport: abi.Port(8080),
		Service: 1, Kind: uint8(abi.EventDrop), Reason: uint8(policy), Place: 1, Proto: 6, Tcp: 0x12, Ingress: 7, Length: 74, Ifindex: 5,
	}
	if !teller.Knows(e) {
		t.Error("the Service of id 1 has no name")
	}
	return teller.Tell(e)
}

func TestTell(t *testing.T) {
	got := denial(t).Line(true)
	want := "drop   denied  TCP  10.244.0.9:4000 -> 10.96.0.1:80 (default/echo:http) => 10.244.0.2:8080 (default/echo-1) policy_ingress" +
		" at from_pod service=1 ingress-set=7 device=5 bytes=74 flags=SYN,ACK"
	if !strings.HasSuffix(got, want) {
		t.Errorf("got\n%s, want at its end\n%s", got, want)
	}
}

func TestFilter(t *testing.T) {
	e := denial(t)
	for _, tt := range []struct {
		name   string
		filter Filter
		want   bool
	}{
		{"all", Filter{}, true},
		{"pod", Filter{Pod: "echo-1"}, true},
		{"pod with its namespace", Filter{Pod: "default/echo-1"}, true},
		{"pod of another namespace", Filter{Pod: "other/echo-1"}, false},
		{"service", Filter{Service: "echo"}, true},
		{"other service", Filter{Service: "default/web"}, false},
		{"verdict", Filter{Verdict: "denied"}, true},
		{"other verdict", Filter{Verdict: "allowed"}, false},
		{"reason", Filter{Reason: "policy_ingress"}, true},
		{"from an address", Filter{From: "10.244.0.9"}, true},
		{"from a prefix", Filter{From: "10.244.0.0/28"}, true},
		{"from another prefix", Filter{From: "10.245.0.0/16"}, false},
		{"to a pod behind the service", Filter{To: "default/echo-1"}, true},
		{"to the service's address and port", Filter{To: "10.96.0.1:80"}, true},
		{"to the sender", Filter{To: "10.244.0.9"}, false},
		{"protocol", Filter{Protocol: "tcp"}, true},
		{"other protocol", Filter{Protocol: "udp"}, false},
	} {
		if got := tt.filter.Match(e); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	for _, bad := range []Filter{{Verdict: "maybe"}, {Reason: "weather"}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is valid", bad)
		}
	}
}
