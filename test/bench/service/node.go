package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/skep-io/skep/cmd/skep/bench"
	"github.com/skep-io/skep/datapath/desired"
)

// Addresses, the same in every node's namespaces.
var (
	serviceCIDR = netip.MustParsePrefix("10.96.0.0/12")
	clusterCIDR = netip.MustParsePrefix("10.244.0.0/14")
	podCIDR     = netip.MustParsePrefix("10.244.7.0/24")
	nodeIP      = netip.MustParseAddr("198.18.96.1")
	outsideIP   = netip.MustParseAddr("198.18.96.2")
	farIP       = netip.MustParseAddr("198.18.96.3")
	routerIP    = netip.MustParseAddr("10.244.7.1")
	backendIP   = netip.MustParseAddr("10.244.7.2")
	clientIP    = netip.MustParseAddr("10.244.7.3")
)

const (
	nodeName = "bench"
	maxNodes = 4
)

// apiAddress is where the n-th node reaches the API server.
func apiAddress(n int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 97, byte(4*n + 1)}) }

func apiPeer(n int) netip.Addr { return apiAddress(n).Next() }

// node is one way to implement Services, with its backend and its clients.
type node struct {
	kind string // routed, skep, skep-xdp, nftables or iptables
	// far: the backend is outside, with an address of its own.
	far bool
	// name starts the names of its namespaces.
	name string
	dir  string
	// server implements the Services; nil where nobody does.
	server *exec.Cmd
	// start starts server, flush forgets what it left in the kernel.
	start func(context.Context) error
	flush func() error
	// backend and client are the pods' network namespaces.
	backend, client string
	// cgroup holds the processes whose sockets are translated; empty: there are none such.
	cgroup string
	// pass is the program of the device outside, where it has one.
	pass link.Link
	// skep is the binary of the load and of the backend, peer the process of the latter.
	skep string
	peer *exec.Cmd
}

func (n *node) namespace(role string) string { return "/run/netns/" + n.name + "-" + role }

// makeNodes makes the namespaces and the backends of all nodes, and starts none of their servers.
func makeNodes(ctx context.Context, o options, a *api, dir string) ([]*node, error) {
	kinds := []string{"routed", "skep"}
	if o.far {
		kinds = []string{"skep", "skep-xdp"}
	}
	if o.kubeProxy != "" {
		kinds = append(kinds, "nftables", "iptables")
	}
	var nodes []*node
	for i, kind := range kinds {
		n := &node{kind: kind, name: fmt.Sprintf("skb%d-%d-%s", os.Getpid(), i, kind), dir: filepath.Join(dir, kind), skep: o.skep, far: o.far}
		nodes = append(nodes, n)
		if err := n.create(i); err != nil {
			return nodes, err
		}
		kubeconfig := filepath.Join(n.dir, "kubeconfig")
		if err := a.keys.WriteKubeconfig(kubeconfig, fmt.Sprintf("https://%s:%d", apiAddress(i), apiPort), "admin", a.keys.Admin); err != nil {
			return nodes, err
		}
		var err error
		switch kind {
		case "routed":
			err = errors.Join(n.route(), n.serve(ctx))
		case "skep": // whose pods come with its server
			err = n.prepareSkep(kubeconfig, desired.XDPOff)
		case "skep-xdp":
			err = n.prepareSkep(kubeconfig, desired.XDPOn)
		default:
			err = errors.Join(n.route(), n.prepareProxy(o.kubeProxy, kubeconfig), n.serve(ctx))
		}
		if err != nil {
			return nodes, fmt.Errorf("node %s: %w", kind, err)
		}
	}
	return nodes, nil
}

// create makes the node's namespace, the one outside, and the links between them and to the API server.
func (n *node) create(index int) error {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	err := script(fmt.Sprintf(`
ip netns add %[1]s-node
ip netns add %[1]s-out
ip -n %[1]s-node link set lo up
ip -n %[1]s-out link set lo up
ip -n %[1]s-node link add uplink type veth peer name eth0 netns %[1]s-out
ip -n %[1]s-node addr add %[2]s/24 dev uplink
ip -n %[1]s-node link set uplink up
ip -n %[1]s-out addr add %[3]s/24 dev eth0
ip -n %[1]s-out link set eth0 up
ip -n %[1]s-out route add default via %[2]s
ip link add skbench%[6]d type veth peer name api netns %[1]s-node
ip addr add %[4]s/30 dev skbench%[6]d
ip link set skbench%[6]d up
ip -n %[1]s-node addr add %[5]s/30 dev api
ip -n %[1]s-node link set api up
ip -n %[1]s-node route add default via %[3]s`, n.name, nodeIP, outsideIP, apiAddress(index), apiPeer(index), index))
	if err != nil || !n.far {
		return err
	}
	// Programs of XDP see what is on the wire: whole checksums, no packets larger than the MTU.
	err = script(fmt.Sprintf(`
ip -n %[1]s-out addr add %[2]s/24 dev eth0
nsenter --net=%[3]s ethtool -K eth0 tx off tso off gso off`, n.name, farIP, n.namespace("out")))
	return errors.Join(err, n.receiveXDP())
}

// receiveXDP gives the device outside a program that lets everything pass: a veth takes what XDP at its other end sends only with one.
func (n *node) receiveXDP() error {
	return in(n.namespace("out"), func() error {
		pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "pass", Type: ebpf.XDP, Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 2), asm.Return()}, License: "GPL"}) // XDP_PASS
		if err != nil {
			return err
		}
		defer pass.Close()
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		n.pass, err = link.AttachXDP(link.XDPOptions{Program: pass, Interface: eth0.Index, Flags: link.XDPDriverMode})
		return err
	})
}

// route makes the pods of a node on which nobody but the kernel works: each has a veth of its own and a route.
func (n *node) route() error {
	n.backend, n.client = n.namespace("backend"), n.namespace("client")
	for role, addr := range map[string]netip.Addr{"backend": backendIP, "client": clientIP} {
		err := script(fmt.Sprintf(`
ip netns add %[1]s-%[2]s
ip -n %[1]s-%[2]s link set lo up
ip -n %[1]s-node link add %[2]s type veth peer name eth0 netns %[1]s-%[2]s
ip -n %[1]s-node addr add %[4]s/32 dev %[2]s
ip -n %[1]s-node link set %[2]s up
ip -n %[1]s-%[2]s addr add %[3]s/32 dev eth0
ip -n %[1]s-%[2]s link set eth0 up
ip -n %[1]s-%[2]s route add %[4]s dev eth0 scope link
ip -n %[1]s-%[2]s route add default via %[4]s
ip -n %[1]s-node route add %[3]s dev %[2]s
nsenter --net=%[5]s sysctl -qw net.ipv4.ip_forward=1`, n.name, role, addr, routerIP, n.namespace("node")))
		if err != nil {
			return err
		}
	}
	return nil
}

// serve starts the backend.
func (n *node) serve(ctx context.Context) error {
	netns, addr := n.backend, backendIP
	if n.far {
		netns, addr = n.namespace("out"), farIP
	}
	if netns == "" {
		return errors.New("there is no backend")
	}
	n.peer = pinned(peerCPU, netns, n.skep, "bench", "peer")
	n.peer.Stderr = os.Stderr
	if err := n.peer.Start(); err != nil {
		return fmt.Errorf("backend of %s: %w", n.kind, err)
	}
	return await(ctx, netns, netip.AddrPortFrom(addr, bench.EchoPort), nil, 10*time.Second)
}

// restart starts the server with nothing in the kernel, and returns how long it took until the Services were answered for good: the
// first in the list, the one that was changed last, and the last in the list.
func (n *node) restart(ctx context.Context, a *api) (time.Duration, error) {
	if err := errors.Join(stop(n.server), n.flush()); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := n.start(ctx); err != nil {
		return 0, fmt.Errorf("server of %s: %w", n.kind, err)
	}
	var all []netip.AddrPort
	for _, ip := range []netip.Addr{a.clusterIP, a.probeIP, a.lastIP} {
		all = append(all, netip.AddrPortFrom(ip, bench.EchoPort))
	}
	since, err := awaitSteady(ctx, n.client, all, 3*time.Minute)
	if err != nil {
		return 0, fmt.Errorf("server of %s: %w", n.kind, err)
	}
	return since.Sub(began), nil
}

// remove ends all that create and its like began.
func (n *node) remove() error {
	err := errors.Join(stop(n.server), stop(n.peer))
	if n.pass != nil {
		err = errors.Join(err, n.pass.Close())
	}
	if n.flush != nil {
		err = errors.Join(err, n.flush())
	}
	if n.cgroup != "" {
		err = errors.Join(err, os.Remove(n.cgroup))
	}
	var out bytes.Buffer
	list := exec.Command("ip", "netns", "list")
	list.Stdout = &out
	err = errors.Join(err, list.Run())
	for line := range strings.Lines(out.String()) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(name, n.name+"-") {
			err = errors.Join(err, script("ip netns del "+name))
		}
	}
	return err
}

func (n *node) logFile() string { return filepath.Join(n.dir, "log") }

// lastWords is the end of what the server has logged.
func (n *node) lastWords() []byte {
	log, err := os.ReadFile(n.logFile())
	if err != nil {
		return nil // skep's goes to where this program's does
	}
	return log[max(0, len(log)-2000):]
}

// within is a command in a network namespace.
func within(netns, name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=" + netns, name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// The load and the backend have a CPU each: where the scheduler puts them is worth more than what is measured.
const (
	loadCPU = 0
	peerCPU = 1
)

// pinned is a command in a network namespace, on one CPU.
func pinned(cpu int, netns, name string, args ...string) *exec.Cmd {
	return within(netns, "taskset", append([]string{"-c", strconv.Itoa(cpu % runtime.NumCPU()), name}, args...)...)
}

func script(text string) error {
	if out, err := exec.Command("bash", "-ec", text).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// stop ends a process that may have ended, or not begun.
func stop(cmd *exec.Cmd) error {
	if cmd == nil || cmd.Process == nil {
		return nil
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = cmd.Wait() // ended by a signal, as asked
	return nil
}

// memory is the resident memory of a process, and that of the BPF maps which it has open, in MiB.
func memory(pid int) (process, maps float64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	process = field(status, "VmRSS:") / 1024
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	seen := map[float64]bool{}
	for _, path := range infos {
		info, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(info, []byte("map_id:")) || seen[field(info, "map_id:")] {
			continue
		}
		seen[field(info, "map_id:")] = true
		maps += field(info, "memlock:") / (1 << 20)
	}
	return process, maps, err
}

// field is the number behind a name at the beginning of a line.
func field(text []byte, name string) float64 {
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			v, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return v
		}
	}
	return 0
}
