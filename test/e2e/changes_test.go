package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// furniture is what is there all the time. The echo servers come and go, and serve for longer than an agent that was killed is away;
// the stable and the guarded ones stay, on the first two nodes.
const furniture = `
{apiVersion: apps/v1, kind: Deployment, metadata: {name: echo}, spec: {replicas: 3, selector: {matchLabels: {app: echo}}, template: {metadata: {labels: {app: echo}}, spec: {
  terminationGracePeriodSeconds: 10, containers: [{name: echo, image: "skep.dev/skep:self", imagePullPolicy: Never, args: [serve, echo, --drain, 6s], readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}}]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: echo}, spec: {type: NodePort, selector: {app: echo}, ports: [
  {name: http, port: 80, targetPort: 8080, nodePort: 30080}, {name: udp, port: 8081, protocol: UDP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: stable}, spec: {selector: {app: stable}, ports: [
  {name: http, port: 80, targetPort: 8080}, {name: tcp, port: 8081}, {name: udp, port: 8081, protocol: UDP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: guarded}, spec: {selector: {app: guarded}, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: guard}, spec: {podSelector: {matchLabels: {app: guarded}},
  ingress: [{from: [{podSelector: {matchLabels: {role: load}}}]}]}}
---
`

const echoServer = `{apiVersion: v1, kind: Pod, metadata: {name: %[1]s-%[2]d, labels: {app: %[1]s}}, spec: {nodeName: node-%[2]d, terminationGracePeriodSeconds: 3,
  containers: [{name: echo, image: "skep.dev/skep:self", imagePullPolicy: Never, args: [serve, echo], readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}}]}}
---
`

// furnish makes what is there all the time and returns when it serves.
func (c *turmoil) furnish() {
	manifest := furniture
	for node := 1; node <= 3; node++ {
		must(c.t)(c.in(node, "image", "self"))
		if node < 3 {
			manifest += fmt.Sprintf(echoServer, "stable", node) + fmt.Sprintf(echoServer, "guarded", node)
		}
	}
	c.apply("furniture", manifest)
	c.cli("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
	c.cli("rollout", "status", "deployment/echo", "--timeout=60s")
}

// loadOn is a pod that loads from a node.
const loadOn = `{apiVersion: v1, kind: Pod, metadata: {name: %[1]s, labels: {role: %[2]s}}, spec: {nodeName: node-%[3]d, terminationGracePeriodSeconds: 1, hostNetwork: %[4]v,
  containers: [{name: main, image: "skep.dev/skep:self", imagePullPolicy: Never, command: [/skep], args: [bench, hammer, --workers, "1", --pause, %[5]s]}]}}
---
`

// startLoads starts the loads and returns their names.
func (c *turmoil) startLoads() (names []string) {
	ip := func(service string) string {
		return must(c.t)(c.in(1, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}"))
	}
	echo, stable, guarded := ip("echo"), ip("stable"), ip("guarded")
	manifest := ""
	add := func(name, role string, node int, host bool, pause string, args ...string) {
		names = append(names, name)
		manifest += fmt.Sprintf(loadOn, name, role, node, host, strings.Join(append([]string{pause}, args...), ", "))
	}
	for node := 1; node <= 2; node++ {
		add(fmt.Sprint("echo-load-", node), "load", node, false, "10ms", "--url", `"http://`+echo+`/"`, "--held", `"`+stable+`:8081"`, "--udp", `"`+echo+`:8081"`, "--connected-udp", `"`+echo+`:8081"`)
		add(fmt.Sprint("guarded-load-", node), "load", node, false, "20ms", "--url", `"http://`+guarded+`/"`, "--udp", `"`+stable+`:8081"`, "--connected-udp", `"`+stable+`:8081"`)
		add(fmt.Sprint("intruder-", node), "intruder", node, false, "20ms", "--timeout", "300ms", "--url", `"http://`+guarded+`/"`)
		// From a node, by its own port and by that of the other.
		add(fmt.Sprint("node-load-", node), "load", node, true, "20ms", "--url", fmt.Sprintf(`"http://198.19.83.%d:30080/"`, 3-node), "--udp", `"`+echo+`:8081"`)
	}
	c.apply("loads", manifest)
	c.cli(append([]string{"wait", "--for=condition=Ready", "--timeout=60s"}, prefixed("pod/", names)...)...)
	return names
}

func prefixed(prefix string, names []string) (list []string) {
	for _, n := range names {
		list = append(list, prefix+n)
	}
	return list
}

func (c *turmoil) stopLoads(names []string) {
	c.cli(append([]string{"delete", "--timeout=60s", "--ignore-not-found"}, prefixed("pod/", names)...)...)
}

// rollout changes how many echo servers there are, or replaces them all.
func (c *turmoil) rollout(dice *rand.Rand, i int) {
	if i%2 == 0 {
		replicas := 2 + dice.IntN(5)
		c.note("rollout", "to %d", replicas)
		c.scale(replicas)
	} else {
		c.note("rollout", "restart")
		c.cli("rollout", "restart", "deployment/echo")
	}
	if dice.IntN(2) == 0 {
		c.cli("rollout", "status", "deployment/echo", "--timeout=60s")
	}
}

func (c *turmoil) scale(replicas int) {
	c.try("scale", func() error {
		_, err := c.client.AppsV1().Deployments("default").Patch(context.Background(), "echo", types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas), metav1.PatchOptions{})
		return err
	})
}

// policy makes, changes and removes policies that never forbid what the loads do.
func (c *turmoil) policy(dice *rand.Rand, i int) {
	const manifest = `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: passing}, spec: {podSelector: {matchLabels: {app: %s}},
  ingress: [{from: [{podSelector: {matchLabels: {role: load}}}, {ipBlock: {cidr: 198.19.83.0/24}}, {ipBlock: {cidr: 10.%d.0.0/16, except: [10.%[2]d.7.0/24]}}], ports: [{port: %d, endPort: 9000}, {port: 8081, protocol: UDP}]}]}}
`
	if i%4 == 3 {
		c.note("policy", "gone")
		c.cli("delete", "networkpolicy", "passing", "--ignore-not-found")
		return
	}
	app, low := []string{"echo", "stable"}[dice.IntN(2)], 8000+dice.IntN(80)
	c.note("policy", "for %s from port %d", app, low)
	c.apply("passing", fmt.Sprintf(manifest, app, dice.IntN(200), low))
}

// service makes a dozen Services, of all kinds, and removes them.
func (c *turmoil) service(dice *rand.Rand, i int) {
	var manifest strings.Builder
	for n := range 12 {
		kind, more := "ClusterIP", ""
		switch n % 3 {
		case 1:
			kind, more = "NodePort", ", externalTrafficPolicy: Local"
		case 2:
			more = ", sessionAffinity: ClientIP"
		}
		fmt.Fprintf(&manifest, "{apiVersion: v1, kind: Service, metadata: {name: passing-%d, labels: {passing: \"yes\"}}, spec: {type: %s, selector: {app: %s}, ports: [{port: %d, targetPort: 8080}]%s}}\n---\n",
			n, kind, []string{"echo", "stable", "nobody"}[dice.IntN(3)], 80+dice.IntN(10), more)
	}
	c.note("service", "12")
	c.apply("services", manifest.String())
	time.Sleep(time.Duration(dice.IntN(1000)) * time.Millisecond)
	c.cli("delete", "service", "-l", "passing=yes")
}

// pods starts some pods and removes them, some before they run.
func (c *turmoil) pods(dice *rand.Rand, i int) {
	var manifest strings.Builder
	for n := range 1 + dice.IntN(4) {
		fmt.Fprintf(&manifest, `{apiVersion: v1, kind: Pod, metadata: {name: passing-%d, labels: {passing: "yes"}}, spec: {terminationGracePeriodSeconds: 1,
  containers: [{name: main, image: "skep.dev/skep:self", imagePullPolicy: Never, args: [serve, echo]}]}}
---
`, n)
	}
	c.note("pods", "")
	c.apply("pods", manifest.String())
	time.Sleep(time.Duration(dice.IntN(2000)) * time.Millisecond)
	c.cli("delete", "pod", "-l", "passing=yes", "--timeout=60s")
}

// kill kills the process of a node and sees that it comes back.
func (c *turmoil) kill(dice *rand.Rand, i int) {
	time.Sleep(time.Duration(dice.IntN(3000)) * time.Millisecond)
	c.leaving.Lock()
	defer c.leaving.Unlock()
	node := 1 + dice.IntN(3)
	c.note("kill", "node-%d", node)
	before, err := c.pidOf(node)
	if err != nil {
		c.t.Error(err)
		return
	}
	c.end(node, unix.SIGKILL)
	switch node {
	case 1:
		if out, err := c.in(1, append([]string{"up", "--detach", "--nodes", "3", "--node-name", "node-1", "--service-cidr", "10.98.0.0/16", "--pod-cidr", "10.246.0.0/16"}, c.places()...)...); err != nil {
			c.t.Errorf("start after a kill: %v: %s", err, out)
		}
		return
	case 3:
		c.startNode3()
		return
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if pid, err := c.pidOf(node); err == nil && pid != before {
			return
		}
		if time.Now().After(deadline) {
			c.t.Errorf("nobody starts node-%d within 30 s of its end", node)
			return
		}
	}
}

// node takes the third node out of the cluster and lets it join again.
func (c *turmoil) node(dice *rand.Rand, i int) {
	time.Sleep(5 * time.Second)
	c.leaving.Lock()
	defer c.leaving.Unlock()
	c.note("node", "node-3 leaves")
	c.cli("cordon", "node-3")
	c.cli("drain", "node-3", "--force", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
	c.end(3, unix.SIGTERM)
	c.cli("delete", "node", "node-3")
	time.Sleep(time.Duration(dice.IntN(3000)) * time.Millisecond)
	c.note("node", "node-3 joins")
	c.startNode3()
	c.cli("uncordon", "node-3")
}

// startNode3 starts the third node, unless the first one does.
func (c *turmoil) startNode3() {
	args := append([]string{"--net=" + c.dir + "/run/nodes/node-3/host.netns", c.binary}, c.fellow3...)
	c.try("start node-3", func() error {
		out, err := exec.Command("nsenter", append(args, "--detach", "--ensure")...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// argumentsOf are those that a node was started with.
func (c *turmoil) argumentsOf(node int) []string {
	pid, err := c.pidOf(node)
	if err != nil {
		c.t.Fatal(err)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		c.t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(strings.Trim(string(line), "\x00"), "\x00")[1:], func(arg string) bool { return arg == "--detached" })
}

// settle brings back what was there before everything began to move.
func (c *turmoil) settle() {
	c.note("settle", "")
	c.cli("delete", "networkpolicy", "passing", "--ignore-not-found")
	c.cli("delete", "service", "-l", "passing=yes")
	c.cli("delete", "pod", "-l", "passing=yes", "--timeout=60s")
	c.scale(3)
	c.cli("rollout", "status", "deployment/echo", "--timeout=60s")
	c.cli("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
}
