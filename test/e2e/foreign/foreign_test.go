package foreign

import (
	"fmt"
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
		if !strings.HasPrefix(web.ip, "10.247.") || web.ip == client.ip {
			t.Fatalf("addresses %s and %s", web.ip, client.ip)
		}
		for _, c := range []struct {
			from sandbox
			to   string
		}{{client, web.ip}, {web, client.ip}} {
			if out, err := c.from.call("http://"+c.to+":8080/", "--wait", "10s"); err != nil {
				t.Errorf("%s to %s: %v: %s", c.from.pod.Name, c.to, err, out)
			}
		}
	})
	clusterIP := service(t, n, "web")
	t.Run("services and names", func(t *testing.T) {
		eventually(t, "cluster IP", func() (string, error) { return client.call("http://" + clusterIP + "/") })
		for _, server := range []string{dnsIP, routerOf(client.ip)} {
			out, err := n.command(client.netns(), "dns", "lookup", "web.default.svc.cluster.local", "--server", server).CombinedOutput()
			if err != nil || !strings.Contains(string(out), clusterIP) {
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
	t.Run("killed agent", func(t *testing.T) { n.whileKilled(t, web, client, clusterIP) })
	t.Run("health", func(t *testing.T) {
		must(t)(n.skep("net", "call", "http://127.0.0.1:10256/healthz"))
		if out := must(t)(n.skep("net", "call", "http://127.0.0.1:10249/metrics")); !strings.Contains(out, "skep_") {
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
