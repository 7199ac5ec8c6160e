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
)

// upOptions are the flags of `skep up`.
type upOptions struct {
	node nodeConfig
	// as given, before they are parsed
	nodeIPs, serviceCIDRs, podCIDRs []string

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

  # With IPv4 and IPv6
  skep up --pod-cidr 10.244.0.0/16,fd00:10:244::/56 --service-cidr 10.96.0.0/16,fd00:10:96::/112

  # With a containerd that runs already
  skep up --containerd-address /run/containerd/containerd.sock`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	placeFlags(cmd, &o.node)
	f := cmd.Flags()
	f.StringVar(&o.node.name, "node-name", "", "name of this node; default: the host name")
	f.StringSliceVar(&o.nodeIPs, "node-ip", nil, "addresses of this node, at most one of each family; default: those of the default routes")
	f.StringSliceVar(&o.serviceCIDRs, "service-cidr", []string{join(o.node.serviceCIDRs)}, "range of cluster IPs; with one of IPv4 and one of IPv6 the cluster is dual-stack, the first being the primary family")
	f.StringSliceVar(&o.podCIDRs, "pod-cidr", []string{join(o.node.podCIDRs)}, "range of pod addresses of all nodes; of the same families as --service-cidr")
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
	return o.node.parseFamilies(o.nodeIPs, o.serviceCIDRs, o.podCIDRs)
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
