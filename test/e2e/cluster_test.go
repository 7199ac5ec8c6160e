// Package e2e tests the real thing: a node in a network namespace of its own, with its own data, cgroup and pins, so that it
// runs beside a node of the machine, and an outside client in another namespace, joined to it by a link.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// node is one skep node under test.
type node struct {
	binary string
	// name is unique to this process and names namespace, cgroup and pins.
	name string
	dir  string
	ip   string
	// client reaches its API server from this process's network namespace through the link.
	client kubernetes.Interface
}

// Addresses of the link between the node and the outside client, and between the node and this process.
const (
	nodeIP    = "198.18.91.1"
	nodeIP6   = "fd00:91::1"
	outsideIP = "198.18.91.2"
	outside6  = "fd00:91::2"
	nodeLocal = "198.18.92.1"
	testLocal = "198.18.92.2"
)

// the node that all tests of the package share, started by TestMain.
var shared *node

func TestMain(m *testing.M) {
	if os.Getenv("SKEP_E2E") == "" {
		fmt.Println("the end-to-end tests need root and a built binary: run them with `make e2e`")
		os.Exit(0)
	}
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	n, err := newNode()
	if err != nil {
		fmt.Fprintln(os.Stderr, "set up:", err)
		return 1
	}
	defer func() {
		if err := n.remove(); err != nil {
			fmt.Fprintln(os.Stderr, "clean up:", err)
			code = 1
		}
	}()
	if err := n.up(); err != nil {
		fmt.Fprintln(os.Stderr, "start the node:", err)
		n.printLog()
		return 1
	}
	if err := n.connect(); err != nil {
		fmt.Fprintln(os.Stderr, "connect:", err)
		return 1
	}
	if out, err := n.skep("image", "self"); err != nil {
		fmt.Fprintln(os.Stderr, "import the image:", err, out)
		return 1
	}
	shared = n
	if code = m.Run(); code != 0 {
		n.printLog()
	}
	return code
}

// newNode makes the namespaces and links of a node; remove takes them away.
func newNode() (*node, error) {
	binary, err := filepath.Abs("../../bin/skep")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("build the binary first: %w", err)
	}
	n := &node{binary: binary, name: "skep-e2e-" + strconv.Itoa(os.Getpid()), ip: nodeIP}
	if n.dir, err = os.MkdirTemp("", "skep-e2e-"); err != nil {
		return nil, err
	}
	script := fmt.Sprintf(`
ip netns add %[1]s
ip netns add %[1]s-out
ip -n %[1]s link set lo up
ip -n %[1]s-out link set lo up
ip -n %[1]s link add uplink type veth peer name eth0 netns %[1]s-out
ip -n %[1]s addr add %[2]s/24 dev uplink
ip -n %[1]s addr add %[7]s/64 dev uplink nodad
ip -n %[1]s link set uplink up
ip -n %[1]s-out addr add %[3]s/24 dev eth0
ip -n %[1]s-out addr add %[8]s/64 dev eth0 nodad
ip -n %[1]s-out link set eth0 up
ip -n %[1]s-out route add default via %[2]s
ip link add %[4]s type veth peer name test netns %[1]s
ip addr add %[6]s/30 dev %[4]s
ip link set %[4]s up
ip -n %[1]s addr add %[5]s/30 dev test
ip -n %[1]s link set test up
ip -n %[1]s route add default via %[3]s
ip -n %[1]s route add default via %[8]s
`, n.name, nodeIP, outsideIP, n.link(), nodeLocal, testLocal, nodeIP6, outside6)
	if out, err := exec.Command("bash", "-ec", script).CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s", err, out), n.remove())
	}
	return n, nil
}

func (n *node) link() string { return "e2e" + strconv.Itoa(os.Getpid()) }

// flags place everything of the node where no other node's is.
func (n *node) flags() []string {
	return []string{"--data-dir", filepath.Join(n.dir, "data"), "--run-dir", filepath.Join(n.dir, "run"), "--bpf-dir", "/sys/fs/bpf/" + n.name, "--cgroup", n.name}
}

// up starts the node and returns when it is ready.
func (n *node) up() error { return n.start(n.binary) }

// start is up with a binary and flags besides.
func (n *node) start(binary string, flags ...string) error {
	args := append([]string{"--net=/run/netns/" + n.name, binary, "up", "--detach", "--node-ip", nodeIP + "," + nodeIP6, "--node-name", "e2e",
		"--service-cidr", "10.97.0.0/16,fd00:97::/112", "--pod-cidr", "10.245.0.0/16,fd00:245::/56"}, append(n.flags(), flags...)...)
	out, err := exec.Command("nsenter", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// down stops the node and removes what it holds.
func (n *node) down() error {
	// Not as a process of the node: it removes the node's cgroup.
	args := append([]string{"--net=/run/netns/" + n.name, n.binary, "down"}, n.flags()...)
	out, err := exec.Command("nsenter", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (n *node) remove() error {
	var errs []error
	if _, err := os.Stat(n.kubeconfig()); err == nil {
		errs = append(errs, n.down())
	}
	for _, args := range [][]string{{"link", "del", n.link()}, {"netns", "del", n.name + "-out"}, {"netns", "del", n.name}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(n.dir))...)
}

func (n *node) kubeconfig() string { return filepath.Join(n.dir, "data", "kubeconfig") }

func (n *node) printLog() {
	data, err := os.ReadFile(filepath.Join(n.dir, "data", "skep.log"))
	if err != nil {
		return
	}
	if over := len(data) - 20000; over > 0 {
		data = data[over:]
	}
	fmt.Fprintf(os.Stderr, "--- the node's log\n%s\n", data)
}

// connect makes a client that reaches the API server over the link of this process.
func (n *node) connect() error {
	cfg, err := clientcmd.BuildConfigFromFlags("", n.kubeconfig())
	if err != nil {
		return err
	}
	cfg.Host, cfg.TLSClientConfig.ServerName = "https://"+nodeLocal+":6443", "kubernetes"
	cfg.QPS = -1
	n.client, err = kubernetes.NewForConfig(cfg)
	return err
}

// inside runs skep as a process of the node, in its network namespace and cgroup, and returns what it printed.
func (n *node) inside(args ...string) (string, error) { return n.in(n.name, nil, args...) }

// cgroup is a group of processes of the node, below the one whose processes reach Services.
func (n *node) cgroup() string {
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err == nil {
			return filepath.Join(root, n.name, "client")
		}
	}
	return ""
}

// outside runs skep in the outside client's network namespace.
func (n *node) outside(args ...string) (string, error) { return n.in(n.name+"-out", nil, args...) }

// skep runs a command that needs the kubeconfig, and the places of the node where it is one of ours.
func (n *node) skep(args ...string) (string, error) {
	switch args[0] {
	case "net":
		args = append(args, "--bpf-dir", "/sys/fs/bpf/"+n.name)
	case "image":
		args = append(args, "--run-dir", filepath.Join(n.dir, "run"))
	}
	return n.inside(args...)
}

// pipe is skep with standard input.
func (n *node) pipe(stdin string, args ...string) (string, error) {
	return n.in(n.name, strings.NewReader(stdin), args...)
}

func (n *node) in(netns string, stdin io.Reader, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	enter := `exec nsenter --net="$0" "$@"`
	if netns == n.name {
		enter = fmt.Sprintf("mkdir -p %[1]s && echo $$ >%[1]s/cgroup.procs && %[2]s", n.cgroup(), enter)
	}
	cmd := exec.CommandContext(ctx, "bash", append([]string{"-ec", enter, "/run/netns/" + netns, n.binary}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+n.kubeconfig(), "HOME="+n.dir)
	cmd.Stdin = stdin
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String() + errs.String(), fmt.Errorf("skep %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// must fails the test when a command fails.
func must(t *testing.T) func(string, error) string {
	return func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.TrimSpace(out)
	}
}
