package cache

import (
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/skep-io/skep/dns/wire"
)

func answer(t testing.TB, name string, rrs ...string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	m.Response = true
	for _, s := range rrs {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		if rr.Header().Rrtype == dns.TypeSOA {
			m.Ns = append(m.Ns, rr)
		} else {
			m.Answer = append(m.Answer, rr)
		}
	}
	return m
}

func query(t testing.TB, name string) (*wire.Query, []byte) {
	t.Helper()
	pkt, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	q := new(wire.Query)
	if q.Parse(pkt) != wire.Valid {
		t.Fatal(name)
	}
	return q, pkt
}

// testCache has a clock that stands still.
func testCache(size int) (*Cache, *int64) {
	c, now := New(Options{Size: size, MaxTTL: time.Minute, MaxNegativeTTL: 10 * time.Second, Stale: time.Hour}), int64(1)
	c.now = func() int64 { return now }
	return c, &now
}

func TestAnswersAge(t *testing.T) {
	c, now := testCache(100)
	q, pkt := query(t, "WWW.example.com.")
	k := Key(nil, q)
	c.Put(k, answer(t, "www.example.com.", "www.example.com. 40 IN CNAME a.example.com.", "a.example.com. 90 IN A 192.0.2.1"))
	for _, step := range []struct {
		at         time.Duration
		found      bool
		stale      bool
		first, end uint32
	}{{0, true, false, 40, 90}, {39 * time.Second, true, false, 1, 51}, {40 * time.Second, true, true, 30, 30}, {2 * time.Hour, false, false, 0, 0}} {
		*now = int64(step.at) + 1
		f, ok := c.Get(k)
		if ok != step.found || f.Stale != step.stale {
			t.Fatalf("after %v: %v %+v", step.at, ok, f)
		}
		if !ok {
			continue
		}
		r := wire.NewReply(512)
		r.Begin(q, pkt, 512)
		f.Entry.Write(r, f.Age, f.Stale)
		var m dns.Msg
		if err := m.Unpack(r.Finish(q)); err != nil {
			t.Fatal(err)
		}
		if len(m.Answer) != 2 || m.Answer[0].Header().Name != "WWW.example.com." || m.Answer[0].Header().Ttl != step.first || m.Answer[1].Header().Ttl != step.end {
			t.Errorf("after %v: %s", step.at, &m)
		}
	}
}

func TestNegativeAnswers(t *testing.T) {
	c, now := testCache(100)
	q, _ := query(t, "gone.example.com.")
	k := Key(nil, q)
	m := answer(t, "gone.example.com.")
	m.Rcode = dns.RcodeNameError
	if e := c.Put(k, m); e == nil || c.Len() != 0 {
		t.Error("kept without an SOA")
	}
	m = answer(t, "gone.example.com.", "example.com. 3600 IN SOA ns. host. 1 2 3 4 300")
	m.Rcode = dns.RcodeNameError
	c.Put(k, m)
	*now += int64(9 * time.Second)
	if f, ok := c.Get(k); !ok || f.Stale || f.Entry.Rcode != dns.RcodeNameError {
		t.Errorf("%v %+v", ok, f)
	}
	*now += int64(2 * time.Second)
	if f, _ := c.Get(k); !f.Stale {
		t.Error("fresh beyond the bound")
	}
}

func TestFailuresAreNotKept(t *testing.T) {
	c, _ := testCache(100)
	q, _ := query(t, "a.")
	for _, change := range []func(*dns.Msg){func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure }, func(m *dns.Msg) { m.Truncated = true }} {
		m := answer(t, "a.", "a. 60 IN A 192.0.2.1")
		change(m)
		if c.Put(Key(nil, q), m); c.Len() != 0 {
			t.Errorf("kept: %s", m)
		}
	}
}

func TestBoundAndPrefetch(t *testing.T) {
	c, now := testCache(shards)
	for i := range 200 {
		q, _ := query(t, dns.Fqdn(string(rune('a'+i%26))+string(rune('a'+i/26))))
		c.Put(Key(nil, q), answer(t, "a.", "a. 50 IN A 192.0.2.1"))
	}
	if n := c.Len(); n > shards || n == 0 || c.Evicted() == 0 {
		t.Errorf("%d kept", n)
	}
	q, _ := query(t, "wanted.")
	c.Put(Key(nil, q), answer(t, "wanted.", "wanted. 50 IN A 192.0.2.1"))
	*now += int64(46 * time.Second)
	for i := range 4 {
		if f, ok := c.Get(Key(nil, q)); !ok || f.Prefetch != (i >= prefetchHits-1) {
			t.Errorf("hit %d: %+v", i, f)
		}
	}
}

func TestHitAllocatesNothing(t *testing.T) {
	c, _ := testCache(10)
	q, pkt := query(t, "www.example.com.")
	c.Put(Key(nil, q), answer(t, "www.example.com.", "www.example.com. 40 IN A 192.0.2.1"))
	r := wire.NewReply(wire.MaxUDP)
	var buf [300]byte
	if n := testing.AllocsPerRun(100, func() {
		f, ok := c.Get(Key(buf[:0], q))
		if !ok {
			t.Fatal("not found")
		}
		r.Begin(q, pkt, 512)
		f.Entry.Write(r, f.Age, f.Stale)
		r.Finish(q)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
