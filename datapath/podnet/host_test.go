package podnet

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// addVeth makes a veth pair that stands for a device of the node.
func addVeth(t *testing.T, name string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := netlink.NewVeth(attrs)
	veth.PeerName = name + "peer"
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	return veth
}

func addAddress(t *testing.T, link netlink.Link, address string) {
	t.Helper()
	prefix := netip.MustParsePrefix(address)
	ipNet := hostNet(prefix.Addr())
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet}); err != nil {
		t.Fatal(err)
	}
}

func TestWatchFollowsUplinks(t *testing.T) {
	kernel := newFakeKernel()
	kernel.uplinks = make(chan []Uplink)
	kernel.netdevs[9999] = "left by an earlier process"
	dir := t.TempDir()
	host, err := NewHost(podCIDRs, dir, kernel, quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- host.Watch(ctx) }()

	if got := <-kernel.uplinks; len(got) != 0 {
		t.Fatalf("uplinks at start: %v", got)
	}
	link := addVeth(t, "up0")
	addAddress(t, link, "192.0.2.7/32")
	got := <-kernel.uplinks
	if len(got) != 1 || got[0].Name != "up0" || !slices.Equal(got[0].Addresses, []netip.Addr{netip.MustParseAddr("192.0.2.7")}) {
		t.Fatalf("uplinks: %+v", got)
	}
	addAddress(t, link, "192.0.2.8/32")
	if got := <-kernel.uplinks; len(got) != 1 || len(got[0].Addresses) != 2 {
		t.Fatalf("uplinks: %+v", got)
	}
	if v, err := readSysctl("net/ipv4/conf/up0/forwarding"); err != nil || v != "1" {
		t.Errorf("forwarding %q, %v", v, err)
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	for got := <-kernel.uplinks; len(got) != 0; got = <-kernel.uplinks {
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(kernel.netdevs) != 0 {
		t.Errorf("programs left on %v", kernel.netdevs)
	}
}

func TestSysctlsAreRestored(t *testing.T) {
	const name = "net/ipv4/conf/lo/forwarding"
	dir := t.TempDir()
	record := recordIn(dir)
	before, err := readSysctl(name)
	if err != nil {
		t.Fatal(err)
	}
	other := map[string]string{"0": "1", "1": "0"}[before]
	for _, value := range []string{other, before, other} {
		if err := recordIn(dir).set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := record.save(map[string]string{name: before, "net/ipv4/conf/nosuch0/forwarding": "0"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Cleanup(filepath.Join(dir, "netns")); err != nil {
			t.Fatal(err)
		}
		if after, err := readSysctl(name); err != nil || after != before {
			t.Errorf("before %q, after %q, %v", before, after, err)
		}
	}
}
