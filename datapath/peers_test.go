package datapath

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/podnet"
)

// peer makes another node known, or changes where it is.
func (n *node) peer(t *testing.T, name, pods string, addresses ...string) {
	t.Helper()
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: strings.Split(pods, ",")}}
	for _, a := range addresses {
		object.Status.Addresses = append(object.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	_, err := n.client.CoreV1().Nodes().Create(t.Context(), object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = n.client.CoreV1().Nodes().Update(t.Context(), object, metav1.UpdateOptions{})
	}
	must(t, err)
}

// ways tells how the pods of other nodes are reached, and how large the packets of a pod of this node may be: to the outside and to
// others.
func (n *node) ways(t *testing.T, p pod) string {
	t.Helper()
	routes, err := n.nodes.routes.List()
	must(t, err)
	tunnels, err := n.Maps().Tunnels().List()
	must(t, err)
	var lines []string
	for pods, r := range routes {
		if to, ok := tunnels[pods]; ok {
			lines = append(lines, fmt.Sprintf("%s in %s %d %d", pods, to.Node, to.MTU, r.MTU))
			continue
		}
		lines = append(lines, fmt.Sprintf("%s by %s", pods, r.Gateway))
	}
	for pods := range tunnels {
		if _, ok := routes[pods]; !ok {
			lines = append(lines, fmt.Sprintf("%s without a route", pods))
		}
	}
	slices.Sort(lines)
	lines = append(lines, "pods "+podMTU(t, p))
	if podnet.Overlay() == 0 {
		lines = append(lines, "no device")
	}
	return strings.Join(lines, "\n")
}

func podMTU(t *testing.T, p pod) (text string) {
	t.Helper()
	in(t, p.ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		text = fmt.Sprint(link.Attrs().MTU)
		routes, err := netlink.RouteGet(net.IPv4(10, 244, 200, 1))
		if err == nil && routes[0].MTU != 0 {
			text += fmt.Sprintf(" %d", routes[0].MTU)
		}
		return err
	})
	return text
}

func (n *node) awaitWays(t *testing.T, p pod, want ...string) {
	t.Helper()
	wanted := strings.Join(want, "\n")
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		got := n.ways(t, p)
		if got == wanted {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("have:\n%s\nwant:\n%s", got, wanted)
		}
	}
}

func (n *node) linkMTU(t *testing.T, device string, mtu int) {
	t.Helper()
	link, err := netlink.LinkByName(device)
	must(t, err)
	must(t, netlink.LinkSetMTU(link, mtu))
}

// TestPeers: nodes come, go, come back and move, links change, and the ways to their pods follow.
func TestPeers(t *testing.T) {
	n := startNode(t)
	p := n.addPod(t, "a")
	beyond := &netlink.Route{Dst: &net.IPNet{IP: net.IPv4(198, 51, 100, 0), Mask: net.CIDRMask(24, 32)}, Gw: net.IPv4(192, 0, 2, 9)}
	must(t, netlink.RouteAdd(beyond))
	n.awaitWays(t, p, "pods 1500", "no device")

	n.peer(t, "near", "10.244.8.0/24", "192.0.2.9")
	n.awaitWays(t, p, "10.244.8.0/24 by 192.0.2.9", "pods 1500")
	n.peer(t, "far", "10.244.9.0/24,fd00:10:244:9::/64", "198.51.100.7")
	far := []string{"10.244.9.0/24 in 198.51.100.7 1450 1450", "fd00:10:244:9::/64 in 198.51.100.7 1450 1450"}
	both := append([]string{"10.244.8.0/24 by 192.0.2.9"}, far...)
	n.awaitWays(t, p, append(both, "pods 1500 1450")...)

	t.Log("another process finds it all")
	n.Close()
	n.start(t)
	n.awaitWays(t, p, append(both, "pods 1500 1450")...)

	t.Log("a link with a smaller MTU")
	n.linkMTU(t, "up0", 1400)
	n.awaitWays(t, p, "10.244.8.0/24 by 192.0.2.9", "10.244.9.0/24 in 198.51.100.7 1350 1350",
		"fd00:10:244:9::/64 in 198.51.100.7 1350 1350", "pods 1400 1350")
	n.linkMTU(t, "up0", 1500)
	n.awaitWays(t, p, append(both, "pods 1500 1450")...)

	t.Log("somebody removes the tunnel's device")
	link, err := netlink.LinkByIndex(podnet.Overlay())
	must(t, err)
	must(t, netlink.LinkDel(link))
	n.awaitWays(t, p, append(both, "pods 1500 1450")...)

	t.Log("nodes move")
	n.peer(t, "near", "10.244.8.0/24", "198.51.100.8")
	n.peer(t, "far", "10.244.9.0/24,fd00:10:244:9::/64", "198.51.100.17")
	n.awaitWays(t, p, "10.244.8.0/24 in 198.51.100.8 1450 1450", "10.244.9.0/24 in 198.51.100.17 1450 1450",
		"fd00:10:244:9::/64 in 198.51.100.17 1450 1450", "pods 1500 1450")
	n.peer(t, "near", "10.244.8.0/24", "192.0.2.9")
	n.peer(t, "far", "10.244.9.0/24,fd00:10:244:9::/64", "198.51.100.7")
	n.awaitWays(t, p, append(both, "pods 1500 1450")...)

	t.Log("the link to the others gets a route of another MTU")
	beyond.MTU = 1420
	must(t, netlink.RouteReplace(beyond))
	n.awaitWays(t, p, "10.244.8.0/24 by 192.0.2.9", "10.244.9.0/24 in 198.51.100.7 1370 1370",
		"fd00:10:244:9::/64 in 198.51.100.7 1370 1370", "pods 1500 1370")

	t.Log("a node leaves")
	must(t, n.client.CoreV1().Nodes().Delete(t.Context(), "far", metav1.DeleteOptions{}))
	n.awaitWays(t, p, "10.244.8.0/24 by 192.0.2.9", "pods 1500")
	must(t, n.client.CoreV1().Nodes().Delete(t.Context(), "near", metav1.DeleteOptions{}))
	n.awaitWays(t, p, "pods 1500", "no device")

	t.Log("and comes back with other pods")
	n.peer(t, "near", "10.244.11.0/24", "192.0.2.9")
	n.awaitWays(t, p, "10.244.11.0/24 by 192.0.2.9", "pods 1500")
}

// TestTunnelModes: whoever wants it has the tunnel for all, or for none.
func TestTunnelModes(t *testing.T) {
	n := startNode(t)
	p := n.addPod(t, "a")
	must(t, configure("up0", "fd00:91::1/64"))
	again := func(mode desired.TunnelMode) {
		n.Close()
		n.cfg.Tunnel = mode
		n.start(t)
	}
	n.peer(t, "near", "10.244.8.0/24,fd00:10:244:8::/64", "192.0.2.9", "fd00:91::9")
	direct := []string{"10.244.8.0/24 by 192.0.2.9", "fd00:10:244:8::/64 by fd00:91::9", "pods 1500"}
	n.awaitWays(t, p, direct...)
	again(desired.TunnelAlways)
	n.awaitWays(t, p, "10.244.8.0/24 in 192.0.2.9 1450 1450", "fd00:10:244:8::/64 in fd00:91::9 1430 1430", "pods 1500 1430")
	again(desired.TunnelAuto)
	n.awaitWays(t, p, direct...)
	again(desired.TunnelNever)
	n.awaitWays(t, p, append(direct, "no device")...)
}

// TestProbe: what a router on the way says of its link is found out, and the tunnel's packets become smaller.
func TestProbe(t *testing.T) {
	n := startNode(t)
	p := n.addPod(t, "a")
	far := netip.MustParseAddr("198.51.100.7")
	must(t, netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(198, 51, 100, 0), Mask: net.CIDRMask(24, 32)}, Gw: net.IPv4(192, 0, 2, 9)}))
	in(t, outside, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = "next0", 1380
		veth := netlink.NewVeth(attrs)
		veth.PeerName = "next1"
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return forward("next0", "198.51.100.1/24", far)
	})
	n.peer(t, "far", "10.244.9.0/24", far.String())
	n.awaitWays(t, p, "10.244.9.0/24 in 198.51.100.7 1450 1450", "pods 1500 1450")
	must(t, n.nodes.checkPaths())
	deadline := time.Now().Add(5 * time.Second)
	for n.ways(t, p) != "10.244.9.0/24 in 198.51.100.7 1330 1330\npods 1500 1330" {
		if time.Now().After(deadline) {
			t.Fatal(n.ways(t, p))
		}
		must(t, n.nodes.checkPaths())
	}
}

// forward makes the namespace of the thread a router, to a neighbour that need not be there.
func forward(device, cidr string, to netip.Addr) error {
	if err := configure(device, cidr); err != nil {
		return err
	}
	if err := configure("next1", "198.51.100.99/32"); err != nil {
		return err
	}
	if err := setForwarding(); err != nil {
		return err
	}
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: to.AsSlice(), State: netlink.NUD_PERMANENT,
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}})
}

func setForwarding() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }
