package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/skep-io/skep/datapath/desired"
)

// defaultDomain is the cluster's DNS domain.
const defaultDomain = "cluster.local"

// role says which parts of a cluster a process runs.
type role struct {
	// command is the name of the subcommand that starts it.
	command       string
	server, agent bool
}

// nodeConfig is everything that the commands of the roles can be told.
type nodeConfig struct {
	role
	paths paths
	// cgroup is the cgroup, relative to the root of each hierarchy, that holds the pods and whose processes get Service
	// translation; empty means the root.
	cgroup string
	name   string
	// ips are the node's addresses, at most one of each family, that of the primary family first.
	ips []netip.Addr
	// containerd is the socket of a containerd that runs already, empty for one of our own.
	containerd string
	// serviceCIDRs and podCIDRs are the cluster IPs and the pod addresses of all nodes, a range of each family that the cluster
	// has, the primary one first.
	serviceCIDRs, podCIDRs []netip.Prefix
	apiPort, agentPort     int
	// serverNames are further names and addresses by which the API server is reached.
	serverNames []string
	// join is where an agent that is alone belongs.
	join joinConfig
	// domain is the cluster's DNS domain.
	domain string
	// foreign is what an agent is told that is the network of somebody else's cluster, nil for any other.
	foreign *foreignConfig
	// xdp says on which devices packets are seen by XDP.
	xdp string
	// nodes is how many nodes this machine has: beyond the first each has a network namespace of its own.
	nodes int
	// tunnel says which nodes are reached through the tunnel.
	tunnel string
}

// joinConfig is what `skep agent` is told of its cluster.
type joinConfig struct{ server, token, caHash string }

func defaultNodeConfig() nodeConfig {
	return nodeConfig{
		paths:        defaultPaths(),
		serviceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		podCIDRs:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		apiPort:      6443,
		agentPort:    10250,
		domain:       defaultDomain,
		xdp:          string(desired.XDPAuto),
		nodes:        1,
		tunnel:       string(desired.TunnelAuto),
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
	args := []string{"--data-dir", c.paths.data, "--run-dir", c.paths.run, "--bpf-dir", c.paths.bpf, "--cgroup", c.cgroup, "--node-name", c.name}
	if len(c.ips) > 0 {
		args = append(args, "--node-ip", commas(c.ips))
	}
	if c.agent {
		args = append(args, "--xdp", c.xdp)
	}
	if c.foreign != nil {
		return append(append(args, "--cluster-domain", c.domain, "--tunnel", c.tunnel), c.foreign.args()...)
	}
	if c.agent {
		args = append(args, "--containerd-address", c.containerd, "--tunnel", c.tunnel)
	}
	if c.server {
		args = append(args, "--service-cidr", commas(c.serviceCIDRs), "--pod-cidr", commas(c.podCIDRs), "--server-name", strings.Join(c.serverNames, ","))
	} else {
		args = append(args, "--server", c.join.server, "--ca-hash", c.join.caHash)
	}
	if c.server && c.agent {
		args = append(args, "--nodes", strconv.Itoa(c.nodes))
	}
	return args
}

// complete fills in what depends on the machine and checks the rest.
func (c *nodeConfig) complete() error {
	if err := c.completeNames(); err != nil {
		return err
	}
	if len(c.ips) == 0 && c.nodes > 1 {
		// The other nodes reach the first by the network that they share.
		c.ips = []netip.Addr{c.segment().Address(1)}
		if ip, err := machineIP(true); err == nil {
			c.serverNames = append(c.serverNames, ip.String())
		}
	}
	if len(c.ips) == 0 {
		if err := c.findIPs(); err != nil {
			return err
		}
	}
	return nil
}

// completeNames fills in the node's name and makes the places independent of the working directory.
func (c *nodeConfig) completeNames() error {
	if c.name == "" {
		host, err := os.Hostname()
		if err != nil {
			return err
		}
		c.name = strings.ToLower(host)
	}
	for _, dir := range []*string{&c.paths.data, &c.paths.run, &c.paths.bpf} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	if errs := validation.IsDNS1123Subdomain(c.name); len(errs) > 0 {
		return fmt.Errorf("node name %q: %s; choose one with --node-name", c.name, strings.Join(errs, ", "))
	}
	return nil
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
