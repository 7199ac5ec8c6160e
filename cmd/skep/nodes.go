package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skep-io/skep/control/join"
	"github.com/skep-io/skep/control/pki"
	"github.com/skep-io/skep/datapath/podnet"
)

// maxNodes is how many nodes one machine may have.
const maxNodes = 50

// nodesFolder holds the places of the further nodes below those of the first.
const nodesFolder = "nodes"

// segment is the network that joins the nodes of this machine. Its addresses are of the block for tests between networks, which
// nobody routes.
func (c nodeConfig) segment() podnet.Segment {
	sum := sha256.Sum256([]byte(c.paths.run))
	return podnet.Segment{Dir: filepath.Join(c.paths.run, nodesFolder), Network: netip.MustParsePrefix("198.19.83.0/24"),
		Device: "nodes-" + hex.EncodeToString(sum[:])[:8], MTU: 1500}
}

// guests are the addresses of the further nodes, which reach the outside through the first; not valid: there are none.
func (c nodeConfig) guests() netip.Prefix {
	if c.nodes < 2 {
		return netip.Prefix{}
	}
	return c.segment().Network
}

// nodeName is the name of the i-th node of this machine, counted from 1.
func nodeName(i int) string { return "node-" + strconv.Itoa(i) }

// fellow is the configuration of a further node of this machine.
func (c nodeConfig) fellow(name string) nodeConfig {
	f := c
	f.role = role{command: "agent", agent: true}
	f.name, f.nodes, f.containerd, f.ips = name, 1, "", nil
	f.paths = paths{data: filepath.Join(c.paths.data, nodesFolder, name), run: filepath.Join(c.paths.run, nodesFolder, name),
		bpf: filepath.Join(c.paths.bpf, nodesFolder, name)}
	f.cgroup = filepath.Join(c.cgroup, fellowsCgroup, name)
	return f
}

// fellowsCgroup is above the cgroups of the further nodes.
const fellowsCgroup = "skep-nodes"

// fellows are the names of the further nodes that have left something on this machine.
func (c nodeConfig) fellows() []string {
	var names []string
	for i := 2; i <= maxNodes; i++ {
		f := c.fellow(nodeName(i))
		for _, dir := range []string{f.paths.data, f.paths.run} {
			if _, err := os.Stat(dir); err == nil {
				names = append(names, f.name)
				break
			}
		}
	}
	return names
}

// startFellows starts the further nodes and returns when all are ready. They are processes of their own: when this one is killed
// they go on, and the next one finds them.
func (n *node) startFellows(ctx context.Context, api *rest.Config) error {
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return err
	}
	hash, err := pki.HashPEM(n.keys.CA.Cert)
	if err != nil {
		return err
	}
	token := join.NewToken(time.Hour, "nodes on this machine")
	if _, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, token.Object(), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("token for the nodes: %w", err)
	}
	var all errgroup.Group
	for i := 2; i <= n.cfg.nodes; i++ {
		f := n.cfg.fellow(nodeName(i))
		f.ips = []netip.Addr{n.cfg.segment().Address(i)}
		f.join = joinConfig{server: fmt.Sprintf("https://%s:%d", n.cfg.ips[0], n.cfg.apiPort), token: token.String(), caHash: hash}
		all.Go(func() error {
			if err := n.cfg.segment().EnsureNode(i, f.name); err != nil {
				return fmt.Errorf("network of %s: %w", f.name, err)
			}
			ready := make(chan error, 1)
			n.group.Go(func() error { n.keepFellow(ctx, f, ready); return nil })
			if err := <-ready; err != nil {
				return fmt.Errorf("%s: %w; see %s", f.name, err, f.paths.log())
			}
			n.clock.reach(f.name, f.ips[0].String())
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	n.clock.reach(nodesReady, strconv.Itoa(n.cfg.nodes))
	return nil
}

// keepFellow runs a further node until ctx ends: one that is killed is started again, one that was stopped is not. ready gets
// the outcome of the first start.
func (n *node) keepFellow(ctx context.Context, f nodeConfig, ready chan<- error) {
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		began := time.Now()
		pid, runs := lockHolder(f.paths)
		orderly := false
		if runs {
			ready <- nil
			orderly = n.followFellow(ctx, f, pid)
		} else {
			var err error
			if orderly, err = n.runFellow(ctx, f, ready); err != nil {
				n.logger.Warn("node ended", "node", f.name, "error", err)
			}
		}
		if ctx.Err() != nil || orderly {
			return
		}
		ready = make(chan error, 1) // nobody waits for later starts
		if time.Since(began) > 2*pause {
			pause = time.Second // it ran: the pauses are for one that cannot start
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// followFellow waits for the end of a node that an earlier process started, or ends it with ctx. It is orderly if it was stopped.
func (n *node) followFellow(ctx context.Context, f nodeConfig, pid int) (orderly bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return endedOrderly(f.paths)
	}
	defer unix.Close(fd)
	// It still holds the lock, so the number is not another process's by now.
	if holder, runs := lockHolder(f.paths); !runs || holder != pid {
		return endedOrderly(f.paths)
	}
	for !ended(fd, time.Second) {
		if ctx.Err() != nil {
			_ = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0) // it is gone if that fails
			ended(fd, stopTimeout)
			return true
		}
	}
	return endedOrderly(f.paths)
}

// runFellow runs the process of a further node to its end. With ctx it is asked to end. It is orderly if it ended by itself.
func (n *node) runFellow(ctx context.Context, f nodeConfig, ready chan<- error) (orderly bool, err error) {
	events, report, err := os.Pipe()
	if err != nil {
		ready <- err
		return false, err
	}
	defer events.Close()
	cmd, log, err := f.detachedCommand(report)
	if err == nil {
		err = podnet.Start(n.cfg.segment().Namespace(f.name), cmd)
		log.Close()
	}
	report.Close()
	if err != nil {
		ready <- err
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) }) // it is gone if that fails
	defer stop()
	ready <- follow(events, nodeReady, func(milestone) {})
	err = cmd.Wait()
	return err == nil, err
}

// cleanFellows stops the further nodes of this machine and removes what they hold.
func cleanFellows(ctx context.Context, cfg nodeConfig, purge bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range cfg.fellows() {
		f := cfg.fellow(name)
		args := []string{"down", "--data-dir", f.paths.data, "--run-dir", f.paths.run, "--bpf-dir", f.paths.bpf, "--cgroup", f.cgroup}
		if purge {
			args = append(args, "--purge")
		}
		cmd := exec.CommandContext(ctx, self, args...)
		cmd.Stderr = os.Stderr
		if err := podnet.Start(cfg.segment().Namespace(name), cmd); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := cmd.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("clean up %s: %w", name, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return errors.Join(cfg.segment().Remove(), removeCgroups(ctx, filepath.Join(cfg.cgroup, fellowsCgroup)))
}
