package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"
)

// defaultDomain is the cluster's DNS domain.
const defaultDomain = "cluster.local"

// nodeConfig is everything that `skep up` can be told.
type nodeConfig struct {
	paths paths
	// cgroup is the cgroup, relative to the root of each hierarchy, that holds the pods and whose processes get Service
	// translation; empty means the root.
	cgroup string
	name   string
	ip     netip.Addr
	// containerd is the socket of a containerd that runs already, empty for one of our own.
	containerd string
	// serviceCIDR and podCIDR are the cluster IPs and the pod addresses of all nodes.
	serviceCIDR, podCIDR netip.Prefix
	apiPort, agentPort   int
}

func defaultNodeConfig() nodeConfig {
	return nodeConfig{
		paths:       defaultPaths(),
		serviceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		podCIDR:     netip.MustParsePrefix("10.244.0.0/16"),
		apiPort:     6443,
		agentPort:   10250,
	}
}

// placeFlags adds the flags that say where on the machine a node is.
func placeFlags(cmd *cobra.Command, cfg *nodeConfig) {
	f := cmd.Flags()
	f.StringVar(&cfg.paths.data, "data-dir", cfg.paths.data, "directory of the cluster's data, readable by root alone")
	f.StringVar(&cfg.paths.run, "run-dir", cfg.paths.run, "directory of sockets and namespaces, emptied by `skep down`")
	f.StringVar(&cfg.paths.bpf, "bpf-dir", cfg.paths.bpf, "directory of pinned programs and maps, in a BPF file system")
	f.StringVar(&cfg.cgroup, "cgroup", cfg.cgroup, "cgroup that holds the pods and whose processes reach Services; default: the root")
}

// args are the flags that make another process use this configuration.
func (c nodeConfig) args() []string {
	args := []string{"--data-dir", c.paths.data, "--run-dir", c.paths.run, "--bpf-dir", c.paths.bpf, "--cgroup", c.cgroup,
		"--node-name", c.name, "--containerd-address", c.containerd, "--service-cidr", c.serviceCIDR.String(), "--pod-cidr", c.podCIDR.String()}
	if c.ip.IsValid() {
		args = append(args, "--node-ip", c.ip.String())
	}
	return args
}

// complete fills in what depends on the machine and checks the rest.
func (c *nodeConfig) complete() error {
	if c.name == "" {
		host, err := os.Hostname()
		if err != nil {
			return err
		}
		c.name = strings.ToLower(host)
	}
	if errs := validation.IsDNS1123Subdomain(c.name); len(errs) > 0 {
		return fmt.Errorf("node name %q: %s; choose one with --node-name", c.name, strings.Join(errs, ", "))
	}
	if !c.ip.IsValid() {
		ip, err := machineIP()
		if err != nil {
			return err
		}
		c.ip = ip
	}
	for _, dir := range []*string{&c.paths.data, &c.paths.run, &c.paths.bpf} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	if c.serviceCIDR.Overlaps(c.podCIDR) {
		return fmt.Errorf("--service-cidr %s and --pod-cidr %s overlap", c.serviceCIDR, c.podCIDR)
	}
	return nil
}

// serviceIP is the n-th address of the service range.
func (c *nodeConfig) serviceIP(n int) netip.Addr {
	ip := c.serviceCIDR.Masked().Addr()
	for range n {
		ip = ip.Next()
	}
	return ip
}

// The fixed cluster IPs: default/kubernetes and kube-system/kube-dns.
func (c *nodeConfig) apiServiceIP() netip.Addr { return c.serviceIP(1) }
func (c *nodeConfig) dnsServiceIP() netip.Addr { return c.serviceIP(10) }

// machineIP is the IPv4 address from which this machine would talk to the world, else its first one that is no loopback.
func machineIP() (netip.Addr, error) {
	// Connecting a datagram socket sends nothing: it only asks for a route.
	if conn, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer conn.Close()
		return netip.MustParseAddrPort(conn.LocalAddr().String()).Addr(), nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("this machine has no IPv4 address besides loopback; name one with --node-ip")
}

// podsCgroup is the cgroup above all pods.
func (c *nodeConfig) podsCgroup() string { return filepath.Join("/", c.cgroup, "kubepods") }

// cgroupRoot is the directory in the cgroup2 hierarchy whose processes get Service translation.
func (c *nodeConfig) cgroupRoot() (string, error) {
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err == nil {
			dir := filepath.Join(root, c.cgroup)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return "", fmt.Errorf("cgroup of the node: %w", err)
			}
			return dir, nil
		}
	}
	return "", errors.New("no cgroup2 hierarchy at /sys/fs/cgroup or /sys/fs/cgroup/unified: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`")
}
