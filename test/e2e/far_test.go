package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// distant are two nodes, each in a network namespace of its own, with two routers and a narrow link between them.
type distant struct {
	name, dir string
	// ip is the second node's address, join what makes it one.
	ip   string
	join []string
}

const (
	hereIP  = "198.18.94.1"
	farIP   = "198.18.95.1"
	movedIP = "198.18.95.2"
)

func (d *distant) netns(node int) string { return fmt.Sprintf("%s-%d", d.name, node) }

func (d *distant) places(node int) []string {
	n := strconv.Itoa(node)
	return []string{"--data-dir", d.dir + "/data" + n, "--run-dir", d.dir + "/run" + n, "--bpf-dir", "/sys/fs/bpf/" + d.netns(node), "--cgroup", d.netns(node)}
}

// skep runs a command on a node.
func (d *distant) skep(node int, args ...string) (string, error) {
	switch {
	case args[0] == "image":
		args = append(args, "--run-dir", fmt.Sprintf("%s/run%d", d.dir, node))
	case args[0] == "net" && args[1] != "call":
		args = append(args, "--bpf-dir", "/sys/fs/bpf/"+d.netns(node))
	}
	cmd := exec.Command("nsenter", append([]string{"--net=/run/netns/" + d.netns(node), shared.binary}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+d.dir+"/data1/kubeconfig")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func newDistant(t *testing.T) *distant {
	t.Helper()
	d := &distant{name: "skep-e2e-f" + strconv.Itoa(os.Getpid()), dir: t.TempDir(), ip: farIP}
	script := fmt.Sprintf(`
for n in 1 2 r s; do ip netns add %[1]s-$n; ip -n %[1]s-$n link set lo up; done
join() { ip -n %[1]s-$1 link add $2 mtu $5 type veth peer name $4 mtu $5 netns %[1]s-$3; ip -n %[1]s-$1 link set $2 up; ip -n %[1]s-$3 link set $4 up; }
join 1 eth0 r left 1500
join r right s left 1400
join s right 2 eth0 1500
for n in r s; do ip netns exec %[1]s-$n sysctl -qw net.ipv4.ip_forward=1; done
ip -n %[1]s-1 addr add %[2]s/24 dev eth0
ip -n %[1]s-r addr add 198.18.94.254/24 dev left
ip -n %[1]s-r addr add 198.18.96.1/30 dev right
ip -n %[1]s-s addr add 198.18.96.2/30 dev left
ip -n %[1]s-s addr add 198.18.95.254/24 dev right
ip -n %[1]s-2 addr add %[3]s/24 dev eth0
ip -n %[1]s-1 route add default via 198.18.94.254
ip -n %[1]s-2 route add default via 198.18.95.254
ip -n %[1]s-r route add 198.18.95.0/24 via 198.18.96.2
ip -n %[1]s-s route add 198.18.94.0/24 via 198.18.96.1
`, d.name, hereIP, farIP)
	t.Cleanup(func() {
		for _, node := range []int{2, 1} {
			if out, err := d.skep(node, append([]string{"down", "--purge"}, d.places(node)...)...); err != nil {
				t.Errorf("down: %v: %s", err, out)
			}
		}
		for _, n := range []string{"1", "2", "r", "s"} {
			if out, err := exec.Command("ip", "netns", "del", d.name+"-"+n).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	})
	if out, err := exec.Command("bash", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	up := []string{"up", "--detach", "--node-name", "here", "--node-ip", hereIP, "--service-cidr", "10.98.0.0/16", "--pod-cidr", "10.246.0.0/16"}
	must(t)(d.skep(1, append(up, d.places(1)...)...))
	line := must(t)(d.skep(1, "token", "create", "--server", "https://"+hereIP+":6443"))
	d.join = strings.Fields(line[strings.Index(line, "agent "):])
	d.agent(t)
	return d
}

// agent starts the second node.
func (d *distant) agent(t *testing.T) {
	t.Helper()
	args := append(append([]string{}, d.join...), "--detach", "--node-name", "far", "--node-ip", d.ip)
	must(t)(d.skep(2, append(args, d.places(2)...)...))
}

// pods starts a pod on each node.
func (d *distant) pods(t *testing.T) {
	t.Helper()
	manifest := `{apiVersion: v1, kind: Service, metadata: {name: echo}, spec: {type: NodePort, selector: {app: echo}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}}
---
`
	for i, node := range []string{"here", "far"} {
		must(t)(d.skep(i+1, "image", "self"))
		manifest += fmt.Sprintf(strings.ReplaceAll(echoOn, "node-%[1]d", "%[2]s"), i+1, node)
	}
	file := filepath.Join(d.dir, "echo.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t)(d.skep(1, "apply", "-f", file))
	must(t)(d.skep(1, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"))
}

// reachable asks pods, Service and node ports across the nodes.
func (d *distant) reachable(t *testing.T) {
	t.Helper()
	must := must(t)
	for from := 1; from <= 2; from++ {
		ip := must(d.skep(1, "get", "pod", fmt.Sprintf("echo-%d", 3-from), "-o", "jsonpath={.status.podIP}"))
		must(d.skep(from, "net", "call", "http://"+ip+":8080/"))
		for _, url := range []string{"http://" + ip + ":8080/", "http://echo.default.svc.cluster.local/", "http://echo.default.svc.cluster.local/"} {
			must(d.skep(1, "exec", fmt.Sprintf("echo-%d", from), "--", "/skep", "net", "call", url))
		}
		for range 3 {
			must(d.skep(from, "net", "call", "http://"+map[int]string{1: d.ip, 2: hereIP}[from]+":30080/"))
		}
	}
}

// way is what a node says of its way to the other one, empty if it has none.
func (d *distant) way(t *testing.T, node int) string {
	t.Helper()
	var ways []struct {
		Node, Way string
		MTU       int
	}
	if err := json.Unmarshal([]byte(must(t)(d.skep(node, "net", "nodes", "-o", "json"))), &ways); err != nil {
		t.Fatal(err)
	}
	if len(ways) == 0 {
		return ""
	}
	return fmt.Sprint(ways[0].Node, " ", ways[0].Way, " ", ways[0].MTU)
}

func (d *distant) awaitWay(t *testing.T, node int, want string) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); d.way(t, node) != want; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("node %d has %q, want %q", node, d.way(t, node), want)
		}
	}
}

// TestDistantNodes: nodes that share no link reach each other's pods through the tunnel, over a path that is narrower than their
// links; and a node may move, die, leave and come back.
func TestDistantNodes(t *testing.T) {
	d := newDistant(t)
	d.pods(t)
	d.reachable(t)
	d.pour(t, 1, 2)
	d.pour(t, 2, 1)

	t.Log("the narrow link is found out")
	d.awaitWay(t, 1, farIP+" tunnel 1350")
	d.awaitWay(t, 2, hereIP+" tunnel 1350")
	d.pour(t, 1, 2)
	d.pour(t, 2, 1)

	t.Log("an agent is killed, and the node gets another address")
	d.stop(t, unix.SIGKILL)
	d.pour(t, 1, 2)
	must(t)(output("ip", "-n", d.netns(2), "addr", "add", movedIP+"/24", "dev", "eth0"))
	must(t)(output("ip", "-n", d.netns(2), "addr", "del", farIP+"/24", "dev", "eth0"))
	must(t)(output("ip", "-n", d.netns(2), "addr", "replace", movedIP+"/24", "dev", "eth0"))
	must(t)(output("ip", "-n", d.netns(2), "route", "replace", "default", "via", "198.18.95.254"))
	d.ip = movedIP
	d.agent(t)
	d.awaitWay(t, 1, movedIP+" tunnel 1350")
	d.reachable(t)
	d.pour(t, 2, 1)

	t.Log("the node leaves")
	must(t)(d.skep(2, append([]string{"down", "--purge"}, d.places(2)...)...))
	must(t)(d.skep(1, "delete", "node", "far"))
	d.awaitWay(t, 1, "")
	if out, err := output("ip", "-n", d.netns(2), "link", "show", "skep-overlay"); err == nil {
		t.Errorf("the tunnel's device is left: %s", out)
	}

	t.Log("and comes back")
	must(t)(d.skep(1, "delete", "pod", "--all", "--wait"))
	d.agent(t)
	d.pods(t)
	d.reachable(t)
}

// stop ends the second node's agent.
func (d *distant) stop(t *testing.T, signal unix.Signal) {
	t.Helper()
	pid, err := strconv.Atoi(must(t)(readFile(d.dir + "/run2/lock")))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); err != nil {
		t.Fatal(err)
	}
}

func output(command string, args ...string) (string, error) {
	out, err := exec.Command(command, args...).CombinedOutput()
	return string(out), err
}

// pod is the network namespace of a node's only pod.
func (d *distant) pod(t *testing.T, node int) string {
	t.Helper()
	names, err := filepath.Glob(fmt.Sprintf("%s/run%d/netns/*", d.dir, node))
	if err != nil || len(names) != 1 {
		t.Fatalf("node %d has %d pods, want one (%v)", node, len(names), err)
	}
	return names[0]
}

// pour sends a mebibyte from the pod of one node to that of another, and compares the sums.
func (d *distant) pour(t *testing.T, from, to int) {
	t.Helper()
	data := make([]byte, 1<<20)
	rand.Read(data)
	sum := sha256.Sum256(data)
	var l net.Listener
	var ip string
	within(t, d.pod(t, to), func() (err error) {
		if l, err = net.Listen("tcp4", ":0"); err != nil {
			return err
		}
		eth, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := eth.Addrs()
		ip, _, _ = strings.Cut(addrs[0].String(), "/")
		return err
	})
	defer l.Close()
	received := make(chan []byte, 1)
	go func() {
		defer close(received)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		all, _ := io.ReadAll(c) // what is missing shows
		got := sha256.Sum256(all)
		received <- got[:]
	}()
	within(t, d.pod(t, from), func() error {
		c, err := net.DialTimeout("tcp4", fmt.Sprintf("%s:%d", ip, l.Addr().(*net.TCPAddr).Port), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = c.Write(data)
		return err
	})
	select {
	case got := <-received:
		if !bytes.Equal(got, sum[:]) {
			t.Errorf("from node %d to node %d other bytes arrived than were sent", from, to)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("from node %d to node %d: nothing arrived", from, to)
	}
}

// within runs fn in the network namespace pinned at path. Sockets that it makes stay there.
func within(t *testing.T, path string, fn func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		ns, err := netns.GetFromPath(path)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
