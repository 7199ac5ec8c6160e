package bench

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestPercentileAndMedian(t *testing.T) {
	var took []time.Duration
	for i := 100; i > 0; i-- {
		took = append(took, time.Duration(i)*time.Microsecond)
	}
	for p, want := range map[float64]float64{0: 1, 50: 50, 99: 99, 100: 100} {
		if got := percentile(took, p); got != want {
			t.Errorf("percentile %v is %v, not %v", p, got, want)
		}
	}
	if s := spread([]float64{1, 8, 10, 12, 100}); s != 20 || spread(nil) != 0 {
		t.Errorf("spread is %v, not 20", s)
	}
	if percentile(nil, 50) != 0 || median(nil) != 0 || median([]float64{3, 1}) != 2 || median([]float64{3, 9, 1}) != 3 {
		t.Error("percentile or median of few values is wrong")
	}
}

// TestClientAgainstPeer runs both sides of the Service benchmark over loopback.
func TestClientAgainstPeer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- ServePeer(ctx) }()
	local := netip.MustParseAddr("127.0.0.1")
	target := Target{"direct", netip.AddrPortFrom(local, EchoPort), netip.AddrPortFrom(local, SinkPort)}
	parsed, err := ParseTarget(target.String())
	if err != nil || parsed != target {
		t.Fatalf("%s parses as %v, %v", target, parsed, err)
	}
	var out bytes.Buffer
	if err := RunClient(Load{Workers: 4, Rounds: 2, Length: 20 * time.Millisecond}, []Target{target}, &out); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	samples := map[string][]sample{}
	err = eachLine(&out, func(s sample) {
		if s.Connections <= 0 || s.ConnectP50 <= 0 || s.RoundTripP99 < s.RoundTripP50 || s.Throughput <= 0 {
			t.Errorf("implausible sample %+v", s)
		}
		samples[s.Path] = append(samples[s.Path], s)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(samples["direct"]) != 2 {
		t.Errorf("%d samples, not 2", len(samples["direct"]))
	}
	if r := serviceReport(Load{}, []Target{target}, samples); len(r.Rows) != 1 || r.Rows[0].ConnectionsPerSecond <= 0 {
		t.Errorf("report %+v", r)
	}
}

func TestLookupsAgainstServer(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Name != "there." {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	defer func() { _ = server.Shutdown() }()
	addr := netip.MustParseAddrPort(conn.LocalAddr().String())
	for _, l := range []Lookup{
		{Server: "skep", Case: caseExisting, Addr: addr, Name: "there."},
		{Server: "skep", Case: caseMissing, Addr: addr, Name: "gone.", Rcode: dns.RcodeNameError},
	} {
		if parsed, err := ParseLookup(l.String()); err != nil || parsed != l {
			t.Errorf("%s parses as %+v, %v", l, parsed, err)
		}
		s, err := l.measure(Load{Workers: 40, Length: 20 * time.Millisecond})
		if err != nil || s.Queries <= 0 || s.P50 <= 0 || s.P99 < s.P50 {
			t.Errorf("%s: %+v, %v", l, s, err)
		}
		l.Rate = 1000
		if parsed, err := ParseLookup(l.String()); err != nil || parsed != l {
			t.Errorf("%s parses as %+v, %v", l, parsed, err)
		}
		if took, lost, err := paced(l, 50*time.Millisecond); err != nil || len(took) != 50 || lost != 0 {
			t.Errorf("%s: %d answers, %d lost, %v", l, len(took), lost, err)
		}
	}
	walk := Lookup{Server: "skep", Case: caseWalk, Addr: addr, Name: "gone.,gone.,there."}
	if took, err := walks(walk, 20*time.Millisecond); err != nil || len(took) == 0 {
		t.Errorf("%s: %v, %v", walk, took, err)
	}
	wrong := Lookup{Server: "skep", Case: caseExisting, Addr: addr, Name: "gone."}
	if _, err := oneByOne(wrong, 20*time.Millisecond); err == nil {
		t.Error("an NXDOMAIN counts as an answer")
	}
}

func TestPacedCountsLost(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l := Lookup{Server: "silent", Case: caseExisting, Addr: netip.MustParseAddrPort(conn.LocalAddr().String()), Name: "there.", Rate: 100}
	if took, lost, err := paced(l, 100*time.Millisecond); err != nil || len(took) != 0 || lost != 10 {
		t.Errorf("%d answers of a server that gives none, %d lost of 10, %v", len(took), lost, err)
	}
}
