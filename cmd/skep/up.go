package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
)

// upOptions are the flags of `skep up`.
type upOptions struct {
	node nodeConfig
	// as given, before they are parsed
	nodeIP, serviceCIDR, podCIDR string

	detach   bool
	ensure   bool
	detached bool
	timings  bool
	output   string
}

func upCommand() *cobra.Command {
	o := upOptions{node: defaultNodeConfig()}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster node on this machine",
		Long: `Start a whole cluster on this machine: store, API server, controllers, scheduler, node agent, network and DNS in one process.
Starting again after "skep down", or after a crash, brings back the same cluster; pods that still run are adopted.`,
		Example: `  # In the foreground, until Ctrl-C; pods go on running after it
  skep up

  # In the background, returning when the node is ready
  skep up --detach --timings

  # With a containerd that runs already
  skep up --containerd-address /run/containerd/containerd.sock`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	placeFlags(cmd, &o.node)
	f := cmd.Flags()
	f.StringVar(&o.node.name, "node-name", "", "name of this node; default: the host name")
	f.StringVar(&o.nodeIP, "node-ip", "", "IPv4 address of this node; default: that of the default route")
	f.StringVar(&o.serviceCIDR, "service-cidr", o.node.serviceCIDR.String(), "range of cluster IPs")
	f.StringVar(&o.podCIDR, "pod-cidr", o.node.podCIDR.String(), "range of pod addresses of all nodes")
	f.StringVar(&o.node.containerd, "containerd-address", "", "socket of a running containerd; default: a private one is started")
	f.BoolVar(&o.detach, "detach", false, "start in the background and return when the node is ready")
	f.BoolVar(&o.ensure, "ensure", false, "succeed if a node is already running on this machine")
	f.BoolVar(&o.timings, "timings", false, "print how long the API server and the node took to become ready, counted from exec")
	f.StringVarP(&o.output, "output", "o", "", "json prints the timings as one object on standard output")
	f.BoolVar(&o.detached, "detached", false, "")
	_ = f.MarkHidden("detached") // the flag exists
	return cmd
}

func (o *upOptions) run(cmd *cobra.Command) error {
	if o.output != "" && o.output != "json" {
		return fmt.Errorf("--output %q: only json is known", o.output)
	}
	if err := o.parse(); err != nil {
		return err
	}
	if pid, held := lockHolder(o.node.paths); held {
		if o.ensure {
			fmt.Fprintf(os.Stderr, "a node is already running on this machine (process %d)\n", pid)
			return nil
		}
		return fmt.Errorf("%w (process %d); stop it with `skep down`", errRunning, pid)
	}
	if o.detach {
		return o.startDetached()
	}
	lock, err := takeLock(o.node.paths)
	if err != nil {
		return err
	}
	defer lock.Close()
	clock := newTimeline(os.Stderr, o.detached)
	err = runNode(cmd.Context(), o.node, clock)
	if err != nil {
		clock.fail(err)
	}
	return err
}

// parse reads the flags that are more than text.
func (o *upOptions) parse() error {
	for _, r := range []struct {
		flag, value string
		into        *netip.Prefix
	}{{"--service-cidr", o.serviceCIDR, &o.node.serviceCIDR}, {"--pod-cidr", o.podCIDR, &o.node.podCIDR}} {
		p, err := netip.ParsePrefix(r.value)
		if err != nil || !p.Addr().Is4() || p.Bits() > 24 {
			return fmt.Errorf("%s %q is not an IPv4 range of at least 256 addresses", r.flag, r.value)
		}
		*r.into = p.Masked()
	}
	if o.nodeIP != "" {
		ip, err := netip.ParseAddr(o.nodeIP)
		if err != nil || !ip.Is4() {
			return fmt.Errorf("--node-ip %q is not an IPv4 address", o.nodeIP)
		}
		o.node.ip = ip
	}
	return o.node.complete()
}

// startDetached starts this command again in a session of its own and follows its milestones until the node is ready.
func (o *upOptions) startDetached() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.node.paths.data, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w; choose another with --data-dir", err)
	}
	log, err := os.OpenFile(o.node.paths.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	events, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer events.Close()
	child := exec.Command(self, append([]string{"up", "--detached"}, o.node.args()...)...)
	child.Stdout, child.Stderr = log, log
	child.ExtraFiles = []*os.File{report}
	child.Env = append(os.Environ(), startedEnv+"="+strconv.FormatInt(int64(execTime()), 10))
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
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

// showTimeline prints milestones as they are reached, and the timings where asked for.
func (o *upOptions) showTimeline(events io.Reader) error {
	at := map[string]int64{}
	err := follow(events, func(m milestone) {
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
