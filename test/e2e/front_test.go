package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// front is three nodes on one link, with a client that is none of them.
type front struct {
	machine
	client string // network namespace
}

const (
	frontClient = "198.19.83.200"
	frontVIP    = "203.0.113.80"
	// frontService has node ports and an address that any node may be given packets for.
	frontService = `{apiVersion: v1, kind: Service, metadata: {name: front-%[1]s, annotations: {skep.dev/forwarding: %[1]s}},
  spec: {type: NodePort, selector: {app: front}, externalIPs: [%[4]s], externalTrafficPolicy: %[2]s, ports: [
    {name: tcp, protocol: TCP, port: %[3]d, targetPort: 8090, nodePort: %[3]d}, {name: udp, protocol: UDP, port: %[3]d, targetPort: 8090, nodePort: %[3]d}]}}
---
`
	frontPod = `{apiVersion: v1, kind: Pod, metadata: {name: front-%d, labels: {app: front}}, spec: {nodeName: node-3, terminationGracePeriodSeconds: 1,
  containers: [{name: echo, image: "skep.dev/skep:self", imagePullPolicy: Never, args: [serve, echo]}]}}
---
`
	snatPort, dsrPort, localPort = 30080, 30081, 30082
)

func (f front) host(node int) string {
	if node == 1 {
		return "/run/netns/" + f.name
	}
	return fmt.Sprintf("%s/run/nodes/node-%d/host.netns", f.dir, node)
}

func (f front) bridge() string { return f.dir + "/run/nodes/bridge.netns" }

// newFront makes the nodes, two pods on the third, what listens in these, and the client.
func newFront(t *testing.T) front {
	t.Helper()
	f := front{machine: newMachine(t, "--xdp", "on")}
	f.client = "/run/netns/" + f.name + "-client"
	script := fmt.Sprintf(`ip netns add %[1]s-client
nsenter --net=%[2]s ip link add client type veth peer name eth0 netns %[1]s-client
nsenter --net=%[2]s ip link set client master bridge up
ip -n %[1]s-client link set lo up
ip -n %[1]s-client addr add %[3]s/24 dev eth0
ip -n %[1]s-client link set eth0 up
ip -n %[1]s-client route add %[4]s via 198.19.83.2
`, f.name, f.bridge(), frontClient, frontVIP)
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", f.name+"-client").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	if out, err := exec.Command("bash", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must := must(t)
	must(f.in(3, "image", "self"))
	manifest := fmt.Sprintf(frontPod, 1) + fmt.Sprintf(frontPod, 2) + fmt.Sprintf(frontService, "snat", "Cluster", snatPort, frontVIP) +
		fmt.Sprintf(frontService, "dsr", "Cluster", dsrPort, frontVIP) +
		strings.ReplaceAll(fmt.Sprintf(frontService, "snat", "Local", localPort, frontVIP), "front-snat", "front-local")
	file := filepath.Join(f.dir, "front.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	must(f.in(1, "apply", "-f", file))
	must(f.in(1, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"))
	for _, pod := range f.pods(t) {
		f.listen(t, pod)
	}
	return f
}

// pods are the network namespaces of the third node's pods.
func (f front) pods(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob(f.dir + "/run/nodes/node-3/netns/*")
	if err != nil || len(names) != 2 {
		t.Fatalf("the third node has %d pods, want two (%v)", len(names), err)
	}
	return names
}

// listen answers each line and each datagram with the address that it came from.
func (f front) listen(t *testing.T, pod string) {
	t.Helper()
	within(t, pod, func() error {
		l, err := net.Listen("tcp", ":8090")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go answer(c)
			}
		}()
		p, err := net.ListenPacket("udp", ":8090")
		if err != nil {
			return err
		}
		t.Cleanup(func() { p.Close() })
		go func() {
			buf := make([]byte, 64)
			for {
				_, from, err := p.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = p.WriteTo(fmt.Appendln(nil, from), from)
			}
		}()
		return nil
	})
}

func answer(c net.Conn) {
	defer c.Close()
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		if _, err := fmt.Fprintln(c, c.RemoteAddr()); err != nil {
			return
		}
	}
}

// dial connects the client.
func (f front) dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	var c net.Conn
	within(t, f.client, func() (err error) {
		c, err = net.DialTimeout(network, address, 5*time.Second)
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// frontMark is what all that the client sends has in it.
const frontMark = "front door"

// talk exchanges lines, or datagrams, and returns the address that the backend saw.
func talk(t *testing.T, c net.Conn, lines int) string {
	t.Helper()
	var seen string
	answers := bufio.NewReader(c)
	for range lines {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := fmt.Fprintln(c, frontMark); err != nil {
			t.Fatal(err)
		}
		line, err := answers.ReadString('\n')
		if err != nil {
			t.Fatalf("%s to %s: %v", c.LocalAddr().Network(), c.RemoteAddr(), err)
		}
		seen = strings.TrimSpace(line)
	}
	host, _, _ := net.SplitHostPort(seen)
	return host
}

// watch counts what of the client's packets a node's kernel sees: XDP is before that.
func (f front) watch(t *testing.T, node int) (seen func() int) {
	t.Helper()
	fd := -1
	within(t, f.host(node), func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0x0300) // ETH_P_ALL
		return err
	})
	return func() (n int) {
		defer unix.Close(fd)
		buf := make([]byte, 2048)
		for {
			size, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return n
			}
			if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype != unix.PACKET_OUTGOING && bytes.Contains(buf[:size], []byte(frontMark)) {
				n++
			}
		}
	}
}

// pass gives a port of the bridge an XDP program that lets everything pass.
func (f front) pass(t *testing.T, port string) {
	t.Helper()
	within(t, f.bridge(), func() error {
		device, err := net.InterfaceByName(port)
		if err != nil {
			return err
		}
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
		if err != nil {
			return err
		}
		defer p.Close()
		l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: device.Index, Flags: link.XDPDriverMode})
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		return nil
	})
}

// set gives a device one of the settings of linux/ethtool.h.
func set(t *testing.T, netns, device string, setting, value uint32) {
	t.Helper()
	within(t, netns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		order := [2]uint32{setting, value}
		request := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			rest [16]byte
		}{data: unsafe.Pointer(&order)}
		copy(request.name[:], device)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return fmt.Errorf("%s: setting %#x: %w", device, setting, errno)
		}
		return nil
	})
}

// TestFront: a client outside reaches backends of another node than the one that it asks, by tc and by XDP, translated and not, and
// its connections outlive the node that forwards them where that keeps nothing which another would not know.
func TestFront(t *testing.T) {
	f := newFront(t)
	t.Run("tc", func(t *testing.T) { f.serves(t, false) })
	// What XDP sends over a veth its other end takes only if it has XDP of its own, and packets whose checksums no device has finished
	// are not for XDP.
	for _, port := range []string{"node-1", "node-2", "node-3"} {
		f.pass(t, port)
	}
	const setChecksums = 0x17
	for _, ns := range append(f.pods(t), f.client) {
		set(t, ns, "eth0", setChecksums, 0)
	}
	t.Run("XDP", func(t *testing.T) { f.serves(t, true) })
	t.Run("failover", f.outlives)
}

func (f front) serves(t *testing.T, xdp bool) {
	for _, c := range []struct {
		name string
		node int
		port int
		seen string
	}{
		{"SNAT", 2, snatPort, "198.19.83.2"},
		{"DSR", 2, dsrPort, frontClient},
		{"policy Local", 3, localPort, frontClient},
	} {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(c.name+" "+network, func(t *testing.T) {
				conn := f.dial(t, network, fmt.Sprintf("198.19.83.%d:%d", c.node, c.port))
				if seen := talk(t, conn, 4); seen != c.seen {
					t.Errorf("the backend saw %s, want %s", seen, c.seen)
				}
				const lines = 20
				seen := f.watch(t, c.node)
				talk(t, conn, lines)
				// Now and then XDP hands one on for the neighbours to notice.
				if n := seen(); xdp && c.node == 2 && n > lines/4 || (!xdp || c.node != 2) && n != lines {
					t.Errorf("the node's kernel saw %d of %d packets", n, lines)
				}
			})
		}
	}
}

// outlives opens connections to an address that the client's route gives to one node, takes that node away, and goes on through
// another.
func (f front) outlives(t *testing.T) {
	var conns []net.Conn
	for range 6 {
		c := f.dial(t, "tcp", fmt.Sprintf("%s:%d", frontVIP, dsrPort))
		if seen := talk(t, c, 4); seen != frontClient {
			t.Errorf("the backend saw %s, want %s", seen, frontClient)
		}
		conns = append(conns, c)
	}
	must := must(t)
	must(output("nsenter", "--net="+f.bridge(), "ip", "link", "set", "node-2", "down"))
	must(output("ip", "-n", f.name+"-client", "route", "replace", frontVIP, "via", "198.19.83.1"))
	for _, c := range conns {
		talk(t, c, 4)
	}
	talk(t, f.dial(t, "udp", fmt.Sprintf("%s:%d", frontVIP, dsrPort)), 4)
	must(output("nsenter", "--net="+f.bridge(), "ip", "link", "set", "node-2", "up"))
}
