package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/skep-io/skep/datapath/desired"
)

// startOptions are the flags of `skep up`, `skep server` and `skep agent`.
type startOptions struct {
	node nodeConfig
	// as given, before they are parsed
	nodeIPs, serviceCIDRs, podCIDRs []string
	foreign                         foreignOptions

	detach   bool
	ensure   bool
	replace  bool
	detached bool
	timings  bool
	output   string
}

func upCommand() *cobra.Command {
	o := newStartOptions(role{command: "up", server: true, agent: true})
	cmd := &cobra.Command{
		Short: "Start a cluster on this machine",
		Long: `Start a whole cluster on this machine: store, API server, controllers, scheduler, node agent, network and DNS in one process.
Starting again after "skep down", or after a crash, brings back the same cluster; pods that still run are adopted.
With --nodes there are further nodes on this machine, each with a network namespace, an agent and a containerd of its own.`,
		Example: `  # In the foreground, until Ctrl-C; pods go on running after it
  skep up

  # In the background, returning when the node is ready
  skep up --detach --timings

  # With IPv4 and IPv6
  skep up --pod-cidr 10.244.0.0/16,fd00:10:244::/56 --service-cidr 10.96.0.0/16,fd00:10:96::/112

  # Another build, or other flags, in the place of the node that runs; no connection is lost
  skep up --detach --replace

  # Three nodes on this machine
  skep up --detach --nodes 3

  # With a containerd that runs already
  skep up --containerd-address /run/containerd/containerd.sock`,
	}
	o.complete(cmd)
	o.serverFlags(cmd)
	o.agentFlags(cmd)
	cmd.Flags().IntVar(&o.node.nodes, "nodes", o.node.nodes, "number of nodes on this machine")
	return cmd
}

func serverCommand() *cobra.Command {
	o := newStartOptions(role{command: "server", server: true})
	cmd := &cobra.Command{
		Short:   "Start a control plane without a node",
		Long:    `Start store, API server, controllers and scheduler. Nodes join it with "skep agent".`,
		Example: "  skep server --detach\n  skep token create",
	}
	o.complete(cmd)
	o.serverFlags(cmd)
	return cmd
}

func agentCommand() *cobra.Command {
	return agentCommandOf(newStartOptions(role{command: "agent", agent: true}))
}

// agentCommandOf is the command whose flags set o.
func agentCommandOf(o *startOptions) *cobra.Command {
	cmd := &cobra.Command{
		Short: "Make this machine a node of a cluster",
		Long: `Run a node: agent, network and DNS. The first start needs a token and the hash of the cluster's CA, which "skep token create"
prints on the server; what the node gets for them is kept below --data-dir, and later starts need no flags.

With --network-only it is the network alone, for a node whose kubelet and control plane are somebody else's: pod network (a CNI
plugin), Services, NetworkPolicies, DNS. "skep down" on the node removes it.`,
		Example: `  skep agent --server https://192.0.2.10:6443 --token abcdef.0123456789abcdef --ca-hash sha256:…

  # The network of somebody else's cluster
  skep agent --network-only --kubeconfig /etc/skep/kubeconfig --node-name worker-1`,
	}
	o.complete(cmd)
	o.agentFlags(cmd)
	f := cmd.Flags()
	o.foreignFlags(cmd)
	f.StringVar(&o.node.join.server, "server", "", "URL of the API server")
	f.StringVar(&o.node.join.token, "token", "", "bootstrap token; default: $"+tokenEnv)
	f.StringVar(&o.node.join.caHash, "ca-hash", "", "sha256:… of the public key of the cluster's CA")
	return cmd
}

// tokenEnv holds a token that is not to be seen among the arguments of the process.
const tokenEnv = "SKEP_TOKEN"

func newStartOptions(r role) *startOptions {
	o := &startOptions{node: defaultNodeConfig()}
	o.node.role = r
	return o
}

// complete adds what the commands of all roles have.
func (o *startOptions) complete(cmd *cobra.Command) {
	cmd.Use, cmd.Args = o.node.command, cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return o.run(cmd) }
	placeFlags(cmd, &o.node)
	f := cmd.Flags()
	f.StringVar(&o.node.name, "node-name", "", "name of this node; default: the host name")
	f.StringSliceVar(&o.nodeIPs, "node-ip", nil, "addresses of this node, at most one of each family; default: those of the default routes")
	f.BoolVar(&o.detach, "detach", false, "start in the background and return when it is ready")
	f.BoolVar(&o.ensure, "ensure", false, "succeed if it is already running on this machine")
	f.BoolVar(&o.replace, "replace", false, "stop the process that runs already on this machine and take over from it; pods and connections go on")
	f.BoolVar(&o.timings, "timings", false, "print how long the API server and the node took to become ready, counted from exec")
	f.StringVarP(&o.output, "output", "o", "", "json prints the timings as one object on standard output")
	f.BoolVar(&o.detached, "detached", false, "")
	_ = f.MarkHidden("detached") // the flag exists
}

func (o *startOptions) serverFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&o.serviceCIDRs, "service-cidr", []string{commas(o.node.serviceCIDRs)}, "range of cluster IPs; with one of IPv4 and one of IPv6 the cluster is dual-stack, the first being the primary family")
	f.StringSliceVar(&o.podCIDRs, "pod-cidr", []string{commas(o.node.podCIDRs)}, "range of pod addresses of all nodes; of the same families as --service-cidr")
	f.StringSliceVar(&o.node.serverNames, "server-name", nil, "further name or address by which the API server is reached")
}

func (o *startOptions) agentFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.node.containerd, "containerd-address", "", "socket of a running containerd; default: a private one is started")
	f.StringVar(&o.node.tunnel, "tunnel", o.node.tunnel, "which other nodes are reached through a VXLAN tunnel: auto are those that share no link with this one, always are all, never is none")
	f.StringVar(&o.node.xdp, "xdp", o.node.xdp, "on which devices packets are seen by XDP, where the driver can: auto is on hardware, on is on all, off is on none")
}

func (o *startOptions) run(cmd *cobra.Command) error {
	if o.output != "" && o.output != "json" {
		return fmt.Errorf("--output %q: only json is known", o.output)
	}
	if err := o.parse(); err != nil {
		return err
	}
	if o.node.join.token == "" {
		o.node.join.token = os.Getenv(tokenEnv)
	}
	if pid, held := lockHolder(o.node.paths); held {
		switch {
		case o.replace:
			if err := stopProcess(o.node.paths); err != nil {
				return err
			}
		case o.ensure:
			fmt.Fprintf(os.Stderr, "a node is already running on this machine (process %d)\n", pid)
			return nil
		default:
			return fmt.Errorf("%w (process %d); stop it with `skep down`, or take over from it with --replace", errRunning, pid)
		}
	}
	if o.detach {
		return o.startDetached()
	}
	lock, err := takeLock(o.node.paths)
	if err != nil {
		return err
	}
	clock := newTimeline(os.Stderr, o.detached)
	if err := runNode(cmd.Context(), o.node, clock); err != nil {
		clock.fail(err)
		return errors.Join(err, lock.Close())
	}
	return releaseLock(lock)
}

// parse reads the flags that are more than text.
func (o *startOptions) parse() error {
	switch desired.TunnelMode(o.node.tunnel) {
	case desired.TunnelAuto, desired.TunnelAlways, desired.TunnelNever:
	default:
		return fmt.Errorf("--tunnel %s: want auto, always or never", o.node.tunnel)
	}
	if o.node.nodes < 1 || o.node.nodes > maxNodes {
		return fmt.Errorf("--nodes %d: want 1 to %d", o.node.nodes, maxNodes)
	}
	switch desired.XDPMode(o.node.xdp) {
	case desired.XDPAuto, desired.XDPOn, desired.XDPOff:
	default:
		return fmt.Errorf("--xdp %s: want auto, on or off", o.node.xdp)
	}
	if o.foreign.networkOnly {
		return o.parseForeign()
	}
	if o.node.server {
		return o.node.parseFamilies(o.nodeIPs, o.serviceCIDRs, o.podCIDRs)
	}
	return o.node.parseAgentIPs(o.nodeIPs)
}

// startDetached starts this command again in a session of its own and follows its milestones until the node is ready.
func (o *startOptions) startDetached() error {
	events, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer events.Close()
	child, log, err := o.node.detachedCommand(report)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := child.Start(); err != nil {
		return fmt.Errorf("start the node: %w", err)
	}
	report.Close()
	if err := o.showTimeline(events); err != nil {
		if errors.Is(err, errTimelineEnded) {
			err = fmt.Errorf("%w; see %s", err, o.node.paths.log())
		}
		return err
	}
	return child.Process.Release()
}

// detachedCommand is the command that runs this configuration in a session of its own, reporting its milestones to report. The
// caller closes its log once it is started.
func (c nodeConfig) detachedCommand(report *os.File) (*exec.Cmd, *os.File, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(c.paths.data, 0o700); err != nil {
		return nil, nil, fmt.Errorf("create data directory: %w; choose another with --data-dir", err)
	}
	log, err := os.OpenFile(c.paths.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open log: %w", err)
	}
	cmd := exec.Command(self, append([]string{c.command, "--detached"}, c.args()...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{report}
	cmd.Env = append(os.Environ(), startedEnv+"="+strconv.FormatInt(int64(execTime()), 10), tokenEnv+"="+c.join.token)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, log, nil
}

// showTimeline prints milestones as they are reached, and the timings where asked for.
func (o *startOptions) showTimeline(events io.Reader) error {
	at := map[string]int64{}
	err := follow(events, o.node.lastMilestone(), func(m milestone) {
		at[m.Name] = m.Ms
		printMilestone(os.Stderr, m)
	})
	if err != nil || !o.timings {
		return err
	}
	if o.output == "json" {
		return json.NewEncoder(os.Stdout).Encode(map[string]int64{"apiReadyMs": at[apiReady], "nodeReadyMs": at[nodeReady]})
	}
	fmt.Printf("API server ready after %d ms, node after %d ms\n", at[apiReady], at[nodeReady])
	return nil
}
