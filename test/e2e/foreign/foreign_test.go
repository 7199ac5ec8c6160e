package foreign

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/intstr"
)

var intstr8080 = intstr.FromInt32(8080)

func TestForeignCluster(t *testing.T) {
	n := newNode(t)
	if n.networkReady(t.Context(), t) {
		t.Fatal("the runtime has a network before there is one")
	}
	t.Cleanup(func() { n.leavesNothing(t) })
	n.startAgent(t)
	t.Cleanup(func() { n.down(t) })
	eventually(t, "the runtime's network", func() (string, error) {
		if n.networkReady(t.Context(), t) {
			return "", nil
		}
		return "", fmt.Errorf("not ready")
	})

	web, client := n.start(t, podNamed("web", 0)), n.start(t, podNamed("client", 0))
	t.Run("pods talk", func(t *testing.T) {
		if !strings.HasPrefix(web.ip, "10.247.") || !strings.HasPrefix(web.ip6, "fd00:247:") || web.ip == client.ip || web.ip6 == client.ip6 {
			t.Fatalf("addresses %s %s and %s %s", web.ip, web.ip6, client.ip, client.ip6)
		}
		for _, c := range []struct {
			from sandbox
			to   string
		}{{client, web.ip}, {web, client.ip}, {client, web.ip6}, {web, client.ip6}} {
			if out, err := c.from.call("http://"+net.JoinHostPort(c.to, "8080")+"/", "--wait", "10s"); err != nil {
				t.Errorf("%s to %s: %v: %s", c.from.pod.Name, c.to, err, out)
			}
		}
	})
	clusterIPs := service(t, n, "web")
	t.Run("services and names", func(t *testing.T) {
		for _, ip := range clusterIPs {
			eventually(t, "cluster IP", func() (string, error) { return client.call("http://" + net.JoinHostPort(ip, "80") + "/") })
		}
		for _, server := range []string{dnsIP, dnsIP6, routerOf(client.ip)} {
			out, err := n.command(client.netns(), "dns", "lookup", "web.default.svc.cluster.local", "A", "AAAA", "--server", server).CombinedOutput()
			if err != nil || !strings.Contains(string(out), clusterIPs[0]) || !strings.Contains(string(out), clusterIPs[1]) {
				t.Errorf("DNS at %s: %v: %s", server, err, out)
			}
		}
	})
	t.Run("policies hold for the first packet", func(t *testing.T) { n.firstPackets(t, web, client) })
	t.Run("host ports", func(t *testing.T) {
		n.start(t, podNamed("host-port", 18080))
		eventually(t, "host port", func() (string, error) {
			out, err := n.command("/run/netns/"+n.name+"-out", "net", "call", "http://"+nodeIP+":18080/").CombinedOutput()
			return string(out), err
		})
	})
	t.Run("commands of the specification", func(t *testing.T) { n.commands(t, web, client) })
	t.Run("killed agent", func(t *testing.T) { n.whileKilled(t, web, client, clusterIPs[0]) })
	t.Run("agent in a container", func(t *testing.T) {
		n.killAgent(t)
		n.startContained(t)
		contained := n.start(t, podNamed("contained", 0))
		must(t)(client.call("http://"+contained.ip+":8080/", "--wait", "10s"))
		must(t)(contained.call("http://" + net.JoinHostPort(clusterIPs[1], "80") + "/"))
	})
	t.Run("churn", func(t *testing.T) { n.churn(t, web) })
	t.Run("health", func(t *testing.T) {
		must(t)(n.skep("net", "call", "http://127.0.0.1:10256/healthz"))
		if out := must(t)(n.skep("net", "call", "http://127.0.0.1:10249/metrics")); !strings.Contains(out, "skep_datapath_") {
			t.Errorf("metrics: %.200s", out)
		}
	})
}

// routerOf is the router address of a node whose range is a /24.
func routerOf(ip string) string { return ip[:strings.LastIndex(ip, ".")] + ".1" }

func (n *foreignNode) leavesNothing(t *testing.T) {
	t.Helper()
	missing(t, n.dir+"/run", n.dir+"/data/cni.json", n.dir+"/cni-bin/skep", n.dir+"/cni-bin/loopback", n.dir+"/cni-conf/10-skep.conflist", "/sys/fs/bpf/"+n.name)
	links := sh(t, "ip -n "+n.name+" -o link show type veth | grep -o ' skep[0-9a-f]*@' || true")
	routes := sh(t, "ip -n "+n.name+" route show table all proto 83")
	if strings.TrimSpace(links) != "" || strings.TrimSpace(routes) != "" {
		t.Errorf("left behind: %s%s", links, routes)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), filepath.Join(n.dir, "run")+"/") {
		t.Error("mounts are left")
	}
}
