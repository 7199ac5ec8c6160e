package cache

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

func answer(t *testing.T, rcode int, records ...string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.Rcode = rcode
	for _, s := range records {
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

func TestLifetimes(t *testing.T) {
	truncated := answer(t, dns.RcodeSuccess, "a. 60 A 192.0.2.1")
	truncated.Truncated = true
	for name, c := range map[string]struct {
		m    *dns.Msg
		want time.Duration
	}{
		"least TTL":            {answer(t, dns.RcodeSuccess, "a. 60 A 192.0.2.1", "a. 7 A 192.0.2.2"), 7 * time.Second},
		"negative by SOA":      {answer(t, dns.RcodeNameError, "a. 60 SOA b. c. 1 2 3 4 5"), 5 * time.Second},
		"no data":              {answer(t, dns.RcodeSuccess, "a. 3 SOA b. c. 1 2 3 4 5"), 3 * time.Second},
		"negative without SOA": {answer(t, dns.RcodeNameError), 0},
		"server failure":       {answer(t, dns.RcodeServerFailure), 0},
		"truncated":            {truncated, 0},
	} {
		if got := lifetime(c.m); got != c.want {
			t.Errorf("%s: %v, not %v", name, got, c.want)
		}
	}
}

func TestFreshStaleGone(t *testing.T) {
	now := time.Unix(1000, 0)
	c := New(10)
	c.now = func() time.Time { return now }
	k := Key{Name: "a.", Type: dns.TypeA}
	c.Put(k, answer(t, dns.RcodeSuccess, "a. 20 A 192.0.2.1"))

	now = now.Add(5 * time.Second)
	if m := c.Get(k, false); m == nil || m.Answer[0].Header().Ttl != 15 {
		t.Fatalf("after 5 s: %v", m)
	}
	now = now.Add(20 * time.Second)
	if m := c.Get(k, false); m != nil {
		t.Errorf("an expired answer is fresh: %v", m)
	}
	if m := c.Get(k, true); m == nil || m.Answer[0].Header().Ttl != staleTTL {
		t.Errorf("an expired answer does not serve: %v", m)
	}
	now = now.Add(StaleFor)
	if m := c.Get(k, true); m != nil {
		t.Errorf("an answer outlived its stale time: %v", m)
	}
}
