package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// clock is a hand-moved time source.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newPool(t *testing.T, prefix string, used map[netip.Addr]string) (*Pool, *clock) {
	t.Helper()
	c := &clock{time.Unix(1000, 0)}
	p, err := New(netip.MustParsePrefix(prefix), used, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return p, c
}

func allocate(t *testing.T, p *Pool, owner string) netip.Addr {
	t.Helper()
	addr, err := p.Allocate(owner)
	if err != nil {
		t.Fatalf("allocate for %s: %v", owner, err)
	}
	return addr
}

func TestRouterIsFirstAndNeverHandedOut(t *testing.T) {
	p, _ := newPool(t, "10.244.3.0/29", nil)
	if got := Router(netip.MustParsePrefix("10.244.3.7/24")); got != netip.MustParseAddr("10.244.3.1") {
		t.Errorf("router %s", got)
	}
	want := []string{"10.244.3.2", "10.244.3.3", "10.244.3.4", "10.244.3.5", "10.244.3.6"}
	for i, w := range want {
		if got := allocate(t, p, fmt.Sprint(i)); got != netip.MustParseAddr(w) {
			t.Errorf("allocation %d: got %s, want %s", i, got, w)
		}
	}
	if addr, err := p.Allocate("one more"); !errors.Is(err, ErrExhausted) {
		t.Errorf("full pool gave %s, %v", addr, err)
	}
}

func TestAllocateIsIdempotent(t *testing.T) {
	p, _ := newPool(t, "10.244.0.0/24", nil)
	if a, b := allocate(t, p, "x"), allocate(t, p, "x"); a != b {
		t.Errorf("one owner got %s and %s", a, b)
	}
	if p.InUse() != 1 {
		t.Errorf("in use: %d", p.InUse())
	}
}

func TestFreedAddressRests(t *testing.T) {
	p, c := newPool(t, "10.244.0.0/29", nil)
	var first netip.Addr
	for i := range 5 {
		addr := allocate(t, p, fmt.Sprint(i))
		if i == 2 {
			first = addr
		}
	}
	p.Release("2")
	p.Release("2")
	c.t = c.t.Add(time.Second)
	p.Release("0")
	if addr, err := p.Allocate("early"); !errors.Is(err, ErrExhausted) {
		t.Fatalf("a resting address was handed out: %s, %v", addr, err)
	}
	c.t = c.t.Add(ReuseDelay)
	if got := allocate(t, p, "late"); got != first {
		t.Errorf("got %s, want the one free for the longest time, %s", got, first)
	}
}

func TestRestoreNeverDoubles(t *testing.T) {
	used := map[netip.Addr]string{
		netip.MustParseAddr("10.244.0.3"):  "a",
		netip.MustParseAddr("10.244.0.6"):  "b",
		netip.MustParseAddr("10.99.0.6"):   "of an older range",
		netip.MustParseAddr("10.244.0.15"): "broadcast",
	}
	p, c := newPool(t, "10.244.0.0/28", used)
	if got := allocate(t, p, "a"); got != netip.MustParseAddr("10.244.0.3") {
		t.Errorf("a moved to %s", got)
	}
	if got := allocate(t, p, "new"); got != netip.MustParseAddr("10.244.0.7") {
		t.Errorf("new got %s, want the first one above those in use", got)
	}
	seen := map[netip.Addr]bool{}
	c.t = c.t.Add(ReuseDelay)
	for i := range 10 {
		addr := allocate(t, p, fmt.Sprint("n", i))
		if seen[addr] || addr == netip.MustParseAddr("10.244.0.6") {
			t.Fatalf("%s handed out twice", addr)
		}
		seen[addr] = true
	}
	if _, err := p.Allocate("too many"); !errors.Is(err, ErrExhausted) {
		t.Errorf("13 addresses are in use, yet: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, prefix := range []netip.Prefix{{}, netip.MustParsePrefix("10.0.0.0/31"), netip.MustParsePrefix("fd00::/127")} {
		if _, err := New(prefix, nil, time.Now); err == nil {
			t.Errorf("%s was accepted", prefix)
		}
	}
	two := map[netip.Addr]string{netip.MustParseAddr("10.0.0.2"): "a", netip.MustParseAddr("10.0.0.3"): "a"}
	if _, err := New(netip.MustParsePrefix("10.0.0.0/24"), two, time.Now); err == nil {
		t.Error("an owner with two addresses was accepted")
	}
}

func TestBothFamilies(t *testing.T) {
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/29"), netip.MustParsePrefix("fd00:1::/64")}
	used := map[netip.Addr]string{
		netip.MustParseAddr("10.244.0.2"): "a", netip.MustParseAddr("fd00:1::2"): "a",
		netip.MustParseAddr("fd00:1::1:0"): "beyond what is handed out",
	}
	pools, err := NewPools(prefixes, used, func() time.Time { return time.Unix(1000, 0) })
	if err != nil {
		t.Fatal(err)
	}
	for owner, want := range map[string]string{"a": "[10.244.0.2 fd00:1::2]", "b": "[10.244.0.3 fd00:1::3]"} {
		if got, err := pools.Allocate(owner); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s got %v, %v, want %s", owner, got, err, want)
		}
	}
	for i := range 3 {
		if _, err := pools.Allocate(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := pools.Allocate("one more"); !errors.Is(err, ErrExhausted) || got != nil {
		t.Errorf("a full range gave %v, %v", got, err)
	}
	pools.Release("a")
	if n4, n6 := pools[0].InUse(), pools[1].InUse(); n4 != 4 || n6 != 4 {
		t.Errorf("in use: %d and %d, want 4 of each", n4, n6)
	}
}
