// Package foreign tests skep as the network of somebody else's cluster: a control plane that knows of no agent, a containerd with
// its own CRI plugin in the place of a kubelet's, and `skep agent --network-only` between them, in namespaces of their own.
package foreign

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skep-io/skep/control/agent/image"
)

func TestMain(m *testing.M) {
	if os.Getenv("SKEP_E2E") == "" {
		fmt.Println("the end-to-end tests need root and a built binary: run them with `make e2e`")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The addresses of the links: of the node to the world, and to this process.
const (
	nodeIP    = "198.18.93.1"
	outsideIP = "198.18.93.2"
	nodeLocal = "198.18.94.1"
	testLocal = "198.18.94.2"
	nodeIP6   = "fd00:93::1"
	outside6  = "fd00:93::2"
	podCIDR   = "10.247.0.0/16,fd00:247::/56"
	svcCIDR   = "10.99.0.0/16,fd00:99::/112"
	dnsIP     = "10.99.0.10"
	dnsIP6    = "fd00:99::a"
	worker    = "worker"
	// sandboxImage runs in each sandbox and answers there as the echo server does.
	sandboxImage = "skep.dev/echo-sandbox:test"
)

// foreignNode is a node of a cluster whose control plane is not its own.
type foreignNode struct {
	binary, name, dir string
	client            kubernetes.Interface
	cri               runtimeapi.RuntimeServiceClient
	containerd        *exec.Cmd
}

// newNode starts control plane and containerd, and registers the node as a kubelet does.
func newNode(t *testing.T) *foreignNode {
	t.Helper()
	binary, err := filepath.Abs("../../../bin/skep")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "skep-foreign-")
	if err != nil {
		t.Fatal(err)
	}
	n := &foreignNode{binary: binary, name: "skep-foreign-" + strconv.Itoa(os.Getpid()), dir: dir}
	t.Cleanup(func() {
		// The agent's clean-up has done this, if there was one.
		if err := unix.Unmount(dir+"/run", unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { n.removeCgroups(t) })
	// What is mounted in the run directory is seen in all mount namespaces that have it, as below /run of a usual machine.
	sh(t, "mkdir "+dir+"/run && mount --bind "+dir+"/run "+dir+"/run && mount --make-shared "+dir+"/run")
	n.addNamespaces(t)
	n.startServer(t)
	n.startContainerd(t)
	n.register(t)
	n.grant(t)
	return n
}

// removeCgroups removes the pods' cgroups, which somebody else's kubelet would.
func (n *foreignNode) removeCgroups(t *testing.T) {
	t.Helper()
	sh(t, "shopt -s nullglob; for d in /sys/fs/cgroup/{,*/}"+n.name+"*; do find $d -depth -type d -exec rmdir {} \\;; done")
}

func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("bash", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func (n *foreignNode) link() string { return "frn" + strconv.Itoa(os.Getpid()) }

func (n *foreignNode) addNamespaces(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		out, err := exec.Command("bash", "-c", fmt.Sprintf("ip link del %[2]s; ip netns del %[1]s-out; ip netns del %[1]s", n.name, n.link())).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	sh(t, fmt.Sprintf(`
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
ip link add %[4]s type veth peer name test netns %[1]s
ip addr add %[6]s/30 dev %[4]s
ip link set %[4]s up
ip -n %[1]s addr add %[5]s/30 dev test
ip -n %[1]s link set test up
ip -n %[1]s route add default via %[3]s
ip -n %[1]s route add default via %[8]s`, n.name, nodeIP, outsideIP, n.link(), nodeLocal, testLocal, nodeIP6, outside6))
}

// command is skep in a network namespace of the node: its own, or a pinned one.
func (n *foreignNode) command(netns string, args ...string) *exec.Cmd {
	if netns == "" {
		netns = "/run/netns/" + n.name
	}
	cmd := exec.Command("nsenter", append([]string{"--net=" + netns, n.binary}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+n.dir+"/server/kubeconfig")
	return cmd
}

func (n *foreignNode) skep(args ...string) (string, error) {
	out, err := n.command("", args...).CombinedOutput()
	return string(out), err
}

func must(t *testing.T) func(string, error) string {
	return func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.TrimSpace(out)
	}
}

func (n *foreignNode) serverPlaces() []string {
	return []string{"--data-dir", n.dir + "/server", "--run-dir", n.dir + "/server-run", "--bpf-dir", "/sys/fs/bpf/" + n.name + "-server"}
}

// startServer starts a control plane without an agent.
func (n *foreignNode) startServer(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := n.skep(append([]string{"down", "--cgroup", n.name + "-server", "--purge"}, n.serverPlaces()...)...); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	args := append([]string{"server", "--detach", "--node-ip", nodeIP + "," + nodeIP6, "--node-name", "control", "--service-cidr", svcCIDR, "--pod-cidr", podCIDR}, n.serverPlaces()...)
	must(t)(n.skep(args...))
	cfg, err := clientcmd.BuildConfigFromFlags("", n.dir+"/server/kubeconfig")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Host, cfg.ServerName, cfg.QPS = "https://"+nodeLocal+":6443", "kubernetes", -1
	if n.client, err = kubernetes.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
}

const containerdConfig = `version = 2
root = "%[1]s/containerd"
state = "%[1]s/containerd-run"
[grpc]
  address = "%[1]s/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%[2]s"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true # the test need not be allowed to protect anything from being killed
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%[1]s/cni-bin"
    conf_dir = "%[1]s/cni-conf"
`

// startContainerd starts a containerd with its CRI plugin, in the node's network namespace.
func (n *foreignNode) startContainerd(t *testing.T) {
	t.Helper()
	config := n.dir + "/containerd.toml"
	if err := os.WriteFile(config, fmt.Appendf(nil, containerdConfig, n.dir, sandboxImage), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(n.dir + "/containerd.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	n.containerd = exec.Command("nsenter", "--net=/run/netns/"+n.name, "containerd", "--config", config)
	n.containerd.Stdout, n.containerd.Stderr = log, log
	if err := n.containerd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = n.containerd.Process.Signal(unix.SIGTERM)
		_ = n.containerd.Wait()
		if t.Failed() {
			out, _ := exec.Command("tail", "-n", "15", n.dir+"/containerd.log").CombinedOutput()
			t.Logf("containerd: %s", out)
		}
	})
	conn, err := grpc.NewClient("unix://"+n.dir+"/containerd.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	n.cri = runtimeapi.NewRuntimeServiceClient(conn)
	if _, err := n.cri.Version(t.Context(), &runtimeapi.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	archive, err := os.Create(n.dir + "/image.tar")
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	spec := image.Spec{Binary: n.binary, Target: "/skep", Entrypoint: []string{"/skep", "serve", "echo"}, Tags: []string{sandboxImage}}
	if err := image.Archive(archive, spec); err != nil {
		t.Fatal(err)
	}
	sh(t, fmt.Sprintf("ctr -a %[1]s/containerd.sock -n k8s.io images import %[1]s/image.tar", n.dir))
}

// register makes the Node object, and keeps it alive for the time of the test.
func (n *foreignNode) register(t *testing.T) {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: worker}}
	node, err := n.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now := metav1.NewTime(time.Now().Add(time.Hour))
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP}, {Type: corev1.NodeInternalIP, Address: nodeIP6}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now}}
	must(t)("", update(func() error {
		fresh, err := n.client.CoreV1().Nodes().Get(t.Context(), worker, metav1.GetOptions{})
		if err != nil {
			return err
		}
		fresh.Status.Addresses, fresh.Status.Conditions = node.Status.Addresses, node.Status.Conditions
		_, err = n.client.CoreV1().Nodes().UpdateStatus(t.Context(), fresh, metav1.UpdateOptions{})
		return err
	}))
}

// update tries again what somebody else's change came in between.
func update(fn func() error) (err error) {
	for range 10 {
		if err = fn(); err == nil {
			return nil
		}
	}
	return err
}

// grant applies the rights of the manifest that users apply, and writes the kubeconfig of its account.
func (n *foreignNode) grant(t *testing.T) {
	t.Helper()
	manifest, err := os.ReadFile("../../../deploy/network-only.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rights, _, _ := strings.Cut(string(manifest), "---\napiVersion: apps/v1\n")
	file := n.dir + "/rights.yaml"
	if err := os.WriteFile(file, []byte(rights), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t)(n.skep("apply", "-f", file))
	token := must(t)(n.skep("create", "token", "skep-network", "-n", "kube-system", "--duration", "1h"))
	for _, args := range [][]string{
		{"set-cluster", "c", "--server=https://127.0.0.1:6443", "--certificate-authority=" + n.dir + "/server/pki/ca.crt", "--embed-certs"},
		{"set-credentials", "skep-network", "--token=" + token},
		{"set-context", "c", "--cluster=c", "--user=skep-network"},
		{"use-context", "c"},
	} {
		must(t)(n.skep(append([]string{"config", "--kubeconfig", n.dir + "/kubeconfig"}, args...)...))
	}
}

func (n *foreignNode) places() []string {
	return []string{"--data-dir", n.dir + "/data", "--run-dir", n.dir + "/run", "--bpf-dir", "/sys/fs/bpf/" + n.name, "--cgroup", n.name}
}

// agentArgs start the network.
func (n *foreignNode) agentArgs() []string {
	return append([]string{"agent", "--detach", "--network-only", "--kubeconfig", n.dir + "/kubeconfig", "--node-name", worker,
		"--pod-cidr", podCIDR, "--service-cidr", svcCIDR, "--cni-bin-dir", n.dir + "/cni-bin", "--cni-conf-dir", n.dir + "/cni-conf"}, n.places()...)
}

func (n *foreignNode) startAgent(t *testing.T) {
	t.Helper()
	must(t)(n.skep(n.agentArgs()...))
}

// startContained starts the agent as in a container of a DaemonSet: in a mount namespace that has the agent's run directory in
// common with the node, and sees nothing of the container runtime's namespaces.
func (n *foreignNode) startContained(t *testing.T) {
	t.Helper()
	script := `mount --make-private "$(findmnt -no TARGET -T "$0/containerd-run")" && mount -t tmpfs none "$0/containerd-run" && exec "$@"`
	cmd := n.command("", n.agentArgs()...)
	args := append([]string{"-m", "--propagation", "unchanged", "bash", "-ec", script, n.dir}, cmd.Args...)
	out, err := exec.Command("unshare", args...).CombinedOutput()
	must(t)(string(out), err)
}

// killAgent kills the agent as the kernel does one that takes too much memory.
func (n *foreignNode) killAgent(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(n.dir + "/run/lock")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000); err != nil && !errors.Is(err, unix.EINTR) {
		t.Fatal(err)
	}
}

// down removes the network from the machine.
func (n *foreignNode) down(t *testing.T) {
	t.Helper()
	if out, err := n.skep(append([]string{"down"}, n.places()...)...); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// networkReady says what the container runtime says of its network.
func (n *foreignNode) networkReady(ctx context.Context, t *testing.T) bool {
	t.Helper()
	status, err := n.cri.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range status.Status.Conditions {
		if c.Type == runtimeapi.NetworkReady {
			return c.Status
		}
	}
	return false
}
