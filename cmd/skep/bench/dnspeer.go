package bench

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Peer is a DNS server that can be started for the run.
type Peer struct {
	Name string
	// Command is its process, which has Dir for files of its own.
	Command func(PeerConfig) (*exec.Cmd, error)
}

// PeerConfig is what a peer is started with.
type PeerConfig struct {
	Listen     netip.AddrPort
	Upstream   netip.AddrPort
	Domain     string
	Kubeconfig string
	// Dir is a directory for files, removed after the run.
	Dir string
}

// corefile is CoreDNS at its best: a socket for each CPU, a cache, no log.
const corefile = `.:%d {
    bind %s
    errors
    kubernetes %s in-addr.arpa ip6.arpa {
        kubeconfig %s
        pods insecure
        ttl 30
        fallthrough in-addr.arpa ip6.arpa
    }
    forward . %s
    cache 30
    loadbalance
    multisocket
}
`

// CoreDNS is the peer of that name.
func CoreDNS(binary string) Peer {
	return Peer{Name: "coredns", Command: func(c PeerConfig) (*exec.Cmd, error) {
		file := filepath.Join(c.Dir, "Corefile")
		text := fmt.Appendf(nil, corefile, c.Listen.Port(), c.Listen.Addr(), c.Domain, c.Kubeconfig, c.Upstream)
		return exec.Command(binary, "-conf", file), os.WriteFile(file, text, 0o600)
	}}
}

// ServerAlone is skep's server as a process of its own: what it does without the kernel's help.
func ServerAlone(binary string) Peer {
	return Peer{Name: "skep-server", Command: func(c PeerConfig) (*exec.Cmd, error) {
		return exec.Command(binary, "dns", "serve", "--kubeconfig", c.Kubeconfig, "--cluster-domain", c.Domain,
			"--listen", c.Listen.String(), "--upstream", c.Upstream.String()), nil
	}}
}

// startedPeer is a peer that runs.
type startedPeer struct {
	name string
	addr netip.AddrPort
	cmd  *exec.Cmd
}

func startPeer(p Peer, c PeerConfig) (*startedPeer, error) {
	var err error
	if c.Listen, err = freePort(c.Listen.Addr()); err != nil {
		return nil, err
	}
	cmd, err := p.Command(c)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	return &startedPeer{name: p.Name, addr: c.Listen, cmd: cmd}, nil
}

func (p *startedPeer) stop() {
	_ = p.cmd.Process.Kill() // it holds nothing
	_ = p.cmd.Wait()
}

// memory is what is resident of the process, and the part of that which is not the program itself, in MiB.
func (p *startedPeer) memory() (all, anonymous float64) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
			all = roundTenth(kib / 1024)
		} else if _, err := fmt.Sscanf(line, "RssAnon: %f kB", &kib); err == nil {
			anonymous = roundTenth(kib / 1024)
		}
	}
	return all, anonymous
}

// freePort is a port of the address that nobody has, neither for UDP nor for TCP.
func freePort(addr netip.Addr) (netip.AddrPort, error) {
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	free := netip.MustParseAddrPort(l.Addr().String())
	conn, err := net.ListenPacket("udp", free.String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	return free, conn.Close()
}

// writeKubeconfig writes a kubeconfig for another program.
func writeKubeconfig(file string, cfg *rest.Config) error {
	if err := rest.LoadTLSFiles(cfg); err != nil {
		return err
	}
	out := clientcmdapi.NewConfig()
	out.Clusters["cluster"] = &clientcmdapi.Cluster{Server: cfg.Host, CertificateAuthorityData: cfg.CAData, TLSServerName: cfg.ServerName}
	out.AuthInfos["user"] = &clientcmdapi.AuthInfo{ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData, Token: cfg.BearerToken}
	out.Contexts["context"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: "user"}
	out.CurrentContext = "context"
	return clientcmd.WriteToFile(*out, file)
}
