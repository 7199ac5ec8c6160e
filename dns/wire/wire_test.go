package wire

import (
	"bytes"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func packed(t testing.TB, change func(*dns.Msg)) []byte {
	t.Helper()
	m := new(dns.Msg).SetQuestion("Web.Default.svc.Cluster.LOCAL.", dns.TypeA)
	change(m)
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParse(t *testing.T) {
	var q Query
	pkt := packed(t, func(m *dns.Msg) { m.SetEdns0(4096, true) })
	if s := q.Parse(pkt); s != Valid {
		t.Fatalf("status %d", s)
	}
	if got := NameString(q.Name()); got != "web.default.svc.cluster.local." || q.Labels() != 5 || string(q.Label(1)) != "default" || NameString(q.From(3)) != "cluster.local." {
		t.Errorf("name %s, labels %d", got, q.Labels())
	}
	if !q.EDNS || !q.DO || q.UDPSize != 4096 || q.Version != 0 || q.Type != TypeA || q.Class != ClassIN || !q.RD() {
		t.Errorf("%+v", q)
	}
}

func TestParseStatus(t *testing.T) {
	plain := packed(t, func(*dns.Msg) {})
	edns := packed(t, func(m *dns.Msg) { m.SetEdns0(1232, false) })
	change := func(b []byte, at int, v byte) []byte {
		c := bytes.Clone(b)
		c[at] = v
		return c
	}
	for name, c := range map[string]struct {
		pkt  []byte
		want Status
	}{
		"plain":               {plain, Valid},
		"short":               {plain[:11], Ignore},
		"response":            {change(plain, 2, 0x81), Ignore},
		"no question":         {change(plain, 5, 0), Malformed},
		"two questions":       {change(plain, 5, 2), Malformed},
		"cut in the name":     {plain[:20], Malformed},
		"cut in the type":     {plain[:len(plain)-3], Malformed},
		"pointer in the name": {change(plain, 12, 0xc0), Malformed},
		"notify":              {change(plain, 2, 4<<3), Unknown},
		"OPT promised":        {change(plain, 11, 1), Malformed},
		"OPT cut":             {edns[:len(edns)-1], Malformed},
		"OPT as answer":       {change(change(edns, 11, 0), 7, 1), Malformed},
		"two OPTs":            {change(append(bytes.Clone(edns), edns[len(edns)-11:]...), 11, 2), Malformed},
		"bytes behind":        {append(bytes.Clone(plain), 1, 2, 3), Valid},
	} {
		var q Query
		if got := q.Parse(c.pkt); got != c.want {
			t.Errorf("%s: %d, not %d", name, got, c.want)
		}
	}
}

func TestLower(t *testing.T) {
	var b [264]byte
	for i := range 256 {
		b[i] = byte(i)
	}
	lower(b[:], 256)
	for i := range 256 {
		want := byte(i)
		if i >= 'A' && i <= 'Z' {
			want += 'a' - 'A'
		}
		if b[i] != want {
			t.Errorf("%d became %d", i, b[i])
		}
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"": true, ".": true, "a.b.": true, "a..b": false, ".a": false, "a..": false,
		strings.Repeat("a", 63): true, strings.Repeat("a", 64): false, strings.Repeat("abc.", 63): true, strings.Repeat("abc.", 64): false} {
		b, err := AppendName(nil, name)
		if (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
		if got := NameString(b); ok && got != dns.Fqdn(strings.TrimSuffix(name, ".")) {
			t.Errorf("%q came back as %q", name, got)
		}
	}
}

// FuzzParse holds the parser against miekg/dns: what both take, they read alike, and what miekg/dns takes is refused only for
// a reason that is known.
func FuzzParse(f *testing.F) {
	f.Add(packed(f, func(*dns.Msg) {}))
	f.Add(packed(f, func(m *dns.Msg) { m.SetEdns0(4096, true) }))
	f.Add(packed(f, func(m *dns.Msg) {
		m.SetEdns0(512, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
	}))
	f.Add(packed(f, func(m *dns.Msg) {
		m.Ns = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeTXT, Class: 1}, Txt: []string{"x"}}}
	}))
	f.Fuzz(func(t *testing.T, pkt []byte) {
		var q Query
		var m dns.Msg
		status, err := q.Parse(pkt), m.Unpack(pkt)
		if len(pkt) < HeaderLen || pkt[2]&0x80 != 0 {
			if status != Ignore {
				t.Fatalf("status %d", status)
			}
			return
		}
		records := len(pkt) >= HeaderLen && !bytes.Equal(pkt[6:12], make([]byte, 6))
		switch {
		case status == Valid && err != nil && !records:
			t.Fatalf("taken, but: %v", err)
		case status == Valid && err == nil:
			same(t, &q, &m)
		case status == Malformed && err == nil && len(m.Question) == 1 && !records && q.Type != TypeOPT && q.Type != 0 && !pointer(pkt):
			t.Fatalf("refused: %v", &m)
		}
	})
}

// pointer says whether the question's name is compressed.
func pointer(pkt []byte) bool {
	for at := HeaderLen; at < len(pkt) && pkt[at] != 0; at += int(pkt[at]) + 1 {
		if pkt[at]&pointerBits == pointerBits {
			return true
		}
	}
	return false
}

func same(t *testing.T, q *Query, m *dns.Msg) {
	t.Helper()
	want := m.Question[0]
	b := make([]byte, 256)
	n, err := dns.PackDomainName(want.Name, b, 0, nil, false)
	if err != nil {
		t.Skip(err)
	}
	lower(b, n)
	if !bytes.Equal(b[:n], q.Name()) || want.Qtype != q.Type || want.Qclass != q.Class || m.Id != q.ID {
		t.Fatalf("%v read as %s %d %d", want, NameString(q.Name()), q.Type, q.Class)
	}
	if opt := m.IsEdns0(); opt != nil && opt.Hdr.Name == "." && q.EDNS && (opt.UDPSize() != q.UDPSize || opt.Do() != q.DO || opt.Version() != q.Version) {
		t.Fatalf("%v read as %+v", opt, q)
	}
}

func BenchmarkParse(b *testing.B) {
	pkt := packed(b, func(m *dns.Msg) { m.SetEdns0(1232, false) })
	var q Query
	b.ReportAllocs()
	for b.Loop() {
		if q.Parse(pkt) != Valid {
			b.Fatal()
		}
	}
}
