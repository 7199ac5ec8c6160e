package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// machine is three nodes in one network namespace and those that it makes.
type machine struct{ name, dir, binary string }

func (m machine) places() []string {
	return []string{"--data-dir", m.dir + "/data", "--run-dir", m.dir + "/run", "--bpf-dir", "/sys/fs/bpf/" + m.name, "--cgroup", m.name}
}

// in runs skep in the network namespace of a node, counted from 1.
func (m machine) in(node int, args ...string) (string, error) {
	netns, run := "/run/netns/"+m.name, m.dir+"/run"
	if node > 1 {
		run = fmt.Sprintf("%s/run/nodes/node-%d", m.dir, node)
		netns = run + "/host.netns"
	}
	if args[0] == "image" {
		args = append(args, "--run-dir", run)
	}
	cmd := exec.Command("nsenter", append([]string{"--net=" + netns, m.binary}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+m.dir+"/data/kubeconfig")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func newMachine(t *testing.T, flags ...string) machine {
	t.Helper()
	m := machine{name: "skep-e2e-n" + strconv.Itoa(os.Getpid()), dir: t.TempDir(), binary: shared.binary}
	if out, err := exec.Command("bash", "-ec", "ip netns add "+m.name+"; ip -n "+m.name+" link set lo up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := m.in(1, append([]string{"down", "--purge"}, m.places()...)...); err != nil {
			t.Errorf("down: %v: %s", err, out)
		}
		if out, err := exec.Command("ip", "netns", "del", m.name).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	args := []string{"up", "--detach", "--nodes", "3", "--node-name", "node-1", "--service-cidr", "10.98.0.0/16", "--pod-cidr", "10.246.0.0/16"}
	must(t)(m.in(1, append(append(args, flags...), m.places()...)...))
	return m
}

const echoOn = `{apiVersion: v1, kind: Pod, metadata: {name: echo-%[1]d, labels: {app: echo}}, spec: {nodeName: node-%[1]d, terminationGracePeriodSeconds: 1,
  containers: [{name: echo, image: "skep.dev/skep:self", imagePullPolicy: Never, args: [serve, echo], readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}}]}}
---
`

// TestNodes: pods, Services, names and node ports across nodes, whichever way packets take.
func TestNodes(t *testing.T) {
	t.Run("direct", func(t *testing.T) { testNodes(t, "--tunnel", "auto") })
	t.Run("tunnel", func(t *testing.T) { testNodes(t, "--tunnel", "always") })
}

func testNodes(t *testing.T, flags ...string) {
	m, must := newMachine(t, flags...), must(t)
	manifest := `{apiVersion: v1, kind: Service, metadata: {name: echo}, spec: {type: NodePort, selector: {app: echo}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}}
---
`
	for n := 1; n <= 3; n++ {
		must(m.in(n, "image", "self"))
		manifest += fmt.Sprintf(echoOn, n)
	}
	file := filepath.Join(m.dir, "echo.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	must(m.in(1, "apply", "-f", file))
	must(m.in(1, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"))
	m.reachable(t)
	m.traceable(t)

	// An agent that is killed costs nobody a packet, and comes back.
	lock := m.dir + "/run/nodes/node-2/lock"
	pid, err := strconv.Atoi(strings.TrimSpace(must(readFile(lock))))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.reachable(t)
	for deadline := time.Now().Add(30 * time.Second); strings.TrimSpace(must(readFile(lock))) == strconv.Itoa(pid); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the agent of node-2 does not come back")
		}
	}
}

func readFile(name string) (string, error) {
	data, err := os.ReadFile(name)
	return string(data), err
}

// reachable checks pods, Service, name and API from a pod of each node, and node ports from another node.
func (m machine) reachable(t *testing.T) {
	t.Helper()
	must := must(t)
	for from := 1; from <= 3; from++ {
		for to := 1; to <= 3; to++ {
			ip := must(m.in(1, "get", "pod", fmt.Sprintf("echo-%d", to), "-o", "jsonpath={.status.podIP}"))
			if out := must(m.in(1, "exec", fmt.Sprintf("echo-%d", from), "--", "/skep", "net", "call", "http://"+ip+":8080/")); !strings.Contains(out, fmt.Sprintf("echo-%d", to)) {
				t.Errorf("pod of node-%d to pod of node-%d: %s", from, to, out)
			}
		}
		for range 3 {
			must(m.in(1, "exec", fmt.Sprintf("echo-%d", from), "--", "/skep", "net", "call", "http://echo.default.svc.cluster.local/"))
		}
		client := from%3 + 1
		for range 4 {
			must(m.in(client, "net", "call", fmt.Sprintf("http://198.19.83.%d:30080/", from)))
		}
	}
}

// traceable follows packets from node to node.
func (m machine) traceable(t *testing.T) {
	t.Helper()
	must := must(t)
	ip := func(pod string) string { return must(m.in(1, "get", "pod", pod, "-o", "jsonpath={.status.podIP}")) }
	for _, flags := range [][]string{
		{"--from", "echo-1", "--to", ip("echo-2") + ":8080"},
		{"--from", "echo-2", "--to", ip("echo-1") + ":8080"},
		{"--from", "echo-3", "--to", "echo:80", "--backend", ip("echo-2")},
		{"--from", "node", "--to", ip("echo-3") + ":8080"},
	} {
		out := must(m.in(1, append([]string{"net", "trace", "--bpf-dir", "/sys/fs/bpf/" + m.name, "--run-dir", m.dir + "/run"}, flags...)...))
		t.Log(out)
		if !strings.HasSuffix(strings.TrimSpace(out), "delivered; the answer: delivered") {
			t.Errorf("trace %v ends otherwise:\n%s", flags, out)
		}
	}
	for n := 1; n <= 3; n++ {
		places := []string{"--bpf-dir", "/sys/fs/bpf/" + m.name}
		if n > 1 {
			places = []string{"--bpf-dir", fmt.Sprintf("/sys/fs/bpf/%s/nodes/node-%d", m.name, n)}
		}
		if flows := must(m.in(1, append([]string{"net", "conntrack"}, places...)...)); strings.Contains(flows, ":29999 ") {
			t.Errorf("traces left flows on node-%d:\n%s", n, flows)
		}
	}
}
