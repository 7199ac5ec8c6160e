package forward

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/miekg/dns"
)

// serve answers every question with rcode until the test ends.
func serve(t *testing.T, rcode int) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, rcode))
	})}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = s.Shutdown() })
	return netip.MustParseAddrPort(conn.LocalAddr().String())
}

// silent takes questions and never answers.
func silent(t *testing.T) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return netip.MustParseAddrPort(conn.LocalAddr().String())
}

func TestExchangeGoesOnToTheNext(t *testing.T) {
	good := serve(t, dns.RcodeNameError)
	for name, upstreams := range map[string][]netip.AddrPort{
		"silent first":  {silent(t), good},
		"failing first": {serve(t, dns.RcodeServerFailure), good},
		"refused first": {serve(t, dns.RcodeRefused), good},
	} {
		q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
		m, err := New(upstreams).Exchange(t.Context(), q)
		if err != nil || m.Rcode != dns.RcodeNameError {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

func TestExchangeFails(t *testing.T) {
	q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	if _, err := New(nil).Exchange(t.Context(), q); !errors.Is(err, ErrNoUpstream) {
		t.Errorf("no upstream: %v", err)
	}
	if _, err := New([]netip.AddrPort{serve(t, dns.RcodeServerFailure)}).Exchange(t.Context(), q); err == nil {
		t.Error("a server failure is an answer")
	}
	f := New([]netip.AddrPort{silent(t)})
	for range maxInFlight {
		f.slots <- struct{}{}
	}
	if _, err := f.Exchange(t.Context(), q); !errors.Is(err, ErrBusy) {
		t.Errorf("full: %v", err)
	}
}

func TestUpstreams(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("search a\nnameserver 192.0.2.1\nnameserver 10.244.0.1\nnameserver fd00::1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Upstreams(file, netip.MustParseAddr("10.244.0.1"))
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[fd00::1]:53")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}
