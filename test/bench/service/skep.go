package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skep-io/skep/control/controller"
	"github.com/skep-io/skep/control/steady"
	"github.com/skep-io/skep/datapath"
	"github.com/skep-io/skep/datapath/desired"
	"github.com/skep-io/skep/datapath/podnet"
)

// nodeRole is the first argument of this program where it is the server of skep's node.
const nodeRole = "node"

// nodeConfig is what that process is told.
type nodeConfig struct {
	Kubeconfig, RunDir, BPFDir, Cgroup string
	XDP                                desired.XDPMode
}

func (c nodeConfig) datapath() datapath.Config {
	return datapath.Config{
		NodeName: nodeName, NodeIPs: []netip.Addr{nodeIP},
		PodCIDRs: []netip.Prefix{podCIDR}, ClusterCIDRs: []netip.Prefix{clusterCIDR}, ServiceCIDRs: []netip.Prefix{serviceCIDR},
		BPFDir: c.BPFDir, CgroupRoot: c.Cgroup, RunDir: c.RunDir, XDP: c.XDP,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// prepareSkep makes the data path of skep the node's server: a process of this program, of nothing but that.
func (n *node) prepareSkep(kubeconfig string, xdp desired.XDPMode) error {
	cgroups := "/sys/fs/cgroup"
	if _, err := os.Stat(cgroups + "/unified/cgroup.procs"); err == nil {
		cgroups += "/unified"
	}
	n.cgroup = filepath.Join(cgroups, n.name)
	if err := os.Mkdir(n.cgroup, 0o755); err != nil {
		return err
	}
	c := nodeConfig{Kubeconfig: kubeconfig, RunDir: filepath.Join(n.dir, "run"), BPFDir: "/sys/fs/bpf/" + n.name, Cgroup: n.cgroup, XDP: xdp}
	told, err := json.Marshal(c)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	role := func(verb string) *exec.Cmd {
		cmd := within(n.namespace("node"), self, nodeRole, verb, string(told))
		cmd.Stderr = os.Stderr
		return cmd
	}
	n.start = func(ctx context.Context) error {
		n.server = role("run")
		out, err := n.server.StdoutPipe()
		if err != nil {
			return err
		}
		if err := n.server.Start(); err != nil {
			return err
		}
		var pods [2]string
		if err := json.NewDecoder(out).Decode(&pods); err != nil {
			return fmt.Errorf("its pods: %w", err)
		}
		n.backend, n.client = pods[0], pods[1]
		return n.serve(ctx)
	}
	n.flush = func() error {
		err := errors.Join(stop(n.peer), role("clean").Run())
		n.peer = nil
		return err
	}
	return nil
}

// runNode is the process of skep's node.
func runNode(ctx context.Context, args []string) error {
	var c nodeConfig
	if len(args) != 2 {
		return errors.New("node: want a verb and a configuration")
	}
	if err := json.Unmarshal([]byte(args[1]), &c); err != nil {
		return err
	}
	cfg := c.datapath()
	if args[0] == "clean" {
		return datapath.Cleanup(cfg)
	}
	rest, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return err
	}
	rest.QPS = -1
	rest.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	cfg.Informers = controller.NewInformers(client)
	steady.Register(cfg.Informers, client)
	d, err := datapath.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer d.Close()
	var pods []string
	for i, want := range []netip.Addr{backendIP, clientIP} {
		name := fmt.Sprint("pod-", i)
		a, err := d.Attach(ctx, podnet.Pod{UID: name, Namespace: namespace, Name: name, Identity: desired.Identity{Namespace: namespace}})
		if err != nil {
			return err
		}
		if a.IPs[0] != want {
			return fmt.Errorf("pod %d has the address %s, want %s", i, a.IPs[0], want)
		}
		pods = append(pods, a.NetNS)
	}
	if err := json.NewEncoder(os.Stdout).Encode(pods); err != nil {
		return err
	}
	debug.SetGCPercent(40) // as agents do, see cmd/skep/node.go
	debug.FreeOSMemory()
	<-ctx.Done()
	return nil
}
