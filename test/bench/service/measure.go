package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/cmd/skep/bench"
)

// path is one way to a backend.
type path struct {
	name string
	node *node
	// netns is where the load is; translated says whether its sockets are.
	netns      func() string
	translated bool
	target     bench.Target
}

func pathsOf(nodes []*node, a *api) []path {
	var paths []path
	if nodes[0].far {
		for _, n := range nodes {
			t := bench.Target{Path: "path", Echo: netip.AddrPortFrom(nodeIP, a.nodePorts[0]), Sink: netip.AddrPortFrom(nodeIP, a.nodePorts[1])}
			paths = append(paths, path{n.kind + " NodePort", n, func() string { return n.namespace("out") }, false, t})
		}
		return paths
	}
	for _, n := range nodes {
		client := func() string { return n.client }
		outside := func() string { return n.namespace("out") }
		add := func(name string, netns func() string, translated bool, ip netip.Addr, echo, sink uint16) {
			t := bench.Target{Path: "path", Echo: netip.AddrPortFrom(ip, echo), Sink: netip.AddrPortFrom(ip, sink)}
			paths = append(paths, path{n.kind + " " + name, n, netns, translated, t})
		}
		socket := n.cgroup != ""
		if n.start == nil || socket {
			add("direct", client, socket, backendIP, bench.EchoPort, bench.SinkPort)
		}
		if n.start == nil {
			continue
		}
		if socket {
			add("ClusterIP, socket", client, true, a.clusterIP, bench.EchoPort, bench.SinkPort)
		}
		add("ClusterIP", client, false, a.clusterIP, bench.EchoPort, bench.SinkPort)
		add("NodePort", outside, false, nodeIP, a.nodePorts[0], a.nodePorts[1])
	}
	return paths
}

// sample is what the load prints.
type sample struct {
	Connections float64 `json:"connectionsPerSecond"`
	ConnectP50  float64 `json:"connectP50Us"`
	ConnectP99  float64 `json:"connectP99Us"`
	RoundTrip   float64 `json:"roundTripP50Us"`
	Throughput  float64 `json:"throughputMbps"`
	CPU         float64 `json:"cpuUsPerConnection"`
	// round is the one that it is of: others may have failed.
	round int
}

// load sends on a path for one measurement of each kind. Each has a process of its own, so that nothing of one is left to the next.
func (p *path) load(o options) (s sample, err error) {
	cmd := pinned(loadCPU, p.netns(), o.skep, "bench", "client", "--rounds", "1", "--workers", strconv.Itoa(o.workers), "--length", o.length.String(), "--target", p.target.String())
	cmd.Stderr = os.Stderr
	if p.translated {
		dir, err := os.Open(p.node.cgroup)
		if err != nil {
			return s, err
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	out, err := cmd.Output()
	if err != nil {
		return s, fmt.Errorf("%s: %w", p.name, err)
	}
	return s, json.Unmarshal(out, &s)
}

// programming is how a node's server follows the API.
type programming struct {
	node          *node
	cold          time.Duration
	changes       []time.Duration
	process, maps float64 // MiB
}

// compare measures every node with so many Services.
func compare(ctx context.Context, o options, a *api, nodes []*node, count int) error {
	if err := a.setProbe(ctx, a.backend.String()); err != nil {
		return err
	}
	var servers []*programming
	for _, n := range nodes {
		if n.start == nil {
			continue
		}
		cold, err := n.restart(ctx, a)
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "%s: %d Services from cold in %v\n", n.kind, count, cold.Round(time.Millisecond))
		servers = append(servers, &programming{node: n, cold: cold})
	}
	paths := pathsOf(nodes, a)
	samples, failed := make([][]sample, len(paths)), make([]int, len(paths))
	for round := range o.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d over %d paths\n", round+1, o.rounds, len(paths))
		// In another order each time: what was measured just before has an influence.
		for _, at := range rand.Perm(len(paths)) {
			s, err := paths[at].load(o)
			if err != nil && ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				fmt.Fprintf(os.Stderr, "%v; its server said last:\n%s", err, paths[at].node.lastWords())
				failed[at]++
				continue
			}
			s.round = round
			samples[at] = append(samples[at], s)
		}
	}
	for i, p := range paths {
		if len(samples[i]) == 0 && o.rounds > 0 {
			return fmt.Errorf("%s: no round without an error", p.name)
		}
	}
	for range o.trials {
		for _, s := range servers {
			if err := s.change(ctx, a, servers); err != nil {
				return err
			}
		}
	}
	for _, s := range servers {
		var err error
		if s.process, s.maps, err = memory(serverPID(s.node)); err != nil {
			return err
		}
	}
	return report(os.Stdout, o.rounds, count, paths, samples, failed, servers)
}

// serverPID is the process behind nsenter, which becomes what it starts.
func serverPID(n *node) int { return n.server.Process.Pid }

// proxyRest is more than kube-proxy's minSyncPeriod, by default a second.
const proxyRest = 1200 * time.Millisecond

// change takes the probe's endpoint away and gives it back, and notes when a connection is answered again. The other servers stand
// still meanwhile: the machine has few CPUs.
func (p *programming) change(ctx context.Context, a *api, all []*programming) error {
	for _, other := range all {
		if other != p {
			other.node.server.Process.Signal(syscall.SIGSTOP)
			defer other.node.server.Process.Signal(syscall.SIGCONT)
		}
	}
	to := netip.AddrPortFrom(a.probeIP, bench.EchoPort)
	if err := a.setProbe(ctx); err != nil {
		return err
	}
	if err := await(ctx, p.node.client, to, unix.ECONNREFUSED, 30*time.Second); err != nil {
		return fmt.Errorf("%s: %w", p.node.kind, err)
	}
	// Proxies rest for a second between two changes that they write; a single change does not meet that.
	select {
	case <-time.After(proxyRest):
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := a.setProbe(ctx, a.backend.String()); err != nil {
		return err
	}
	began := time.Now()
	if err := await(ctx, p.node.client, to, nil, 30*time.Second); err != nil {
		return fmt.Errorf("%s: %w", p.node.kind, err)
	}
	p.changes = append(p.changes, time.Since(began))
	return nil
}

// await connects from a network namespace until that ends as wanted: with an error, or with nil, which is that a byte comes back.
func await(ctx context.Context, netns string, to netip.AddrPort, want error, within time.Duration) error {
	return in(netns, func() error {
		var last error
		for began := time.Now(); time.Since(began) < within && ctx.Err() == nil; time.Sleep(200 * time.Microsecond) {
			if last = echo(to); last == nil && want == nil || want != nil && errors.Is(last, want) {
				return nil
			}
		}
		return fmt.Errorf("connect to %s: %w, want %v", to, last, want)
	})
}

// settled is for how long all must be answered before they are taken to stay so: kube-proxy refuses Services again that it has answered,
// when it comes to know them in parts.
const settled = 5 * time.Second

// awaitSteady connects to all of them until they answer and go on to, and returns since when.
func awaitSteady(ctx context.Context, netns string, all []netip.AddrPort, within time.Duration) (since time.Time, err error) {
	err = in(netns, func() error {
		var last error
		for began := time.Now(); time.Since(began) < within && ctx.Err() == nil; time.Sleep(200 * time.Microsecond) {
			if last = echoAll(all); last != nil {
				since = time.Time{}
				continue
			}
			if since.IsZero() {
				since = time.Now()
			}
			if time.Since(since) >= settled {
				return nil
			}
			time.Sleep(5 * time.Millisecond)
		}
		return fmt.Errorf("not all of %v answered within %v: %w", all, within, last)
	})
	return since, err
}

// in runs something in a network namespace.
func in(netns string, run func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends in the other namespace
		ns, err := os.Open(netns)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = run()
		}
		done <- err
	}()
	return <-done
}

func echoAll(all []netip.AddrPort) error {
	for _, to := range all {
		if err := echo(to); err != nil {
			return fmt.Errorf("connect to %s: %w", to, err)
		}
	}
	return nil
}

// echo sends a byte and wants it back.
func echo(to netip.AddrPort) error {
	c, err := net.DialTimeout("tcp4", to.String(), 200*time.Millisecond)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "x"); err != nil {
		return err
	}
	_, err = bufio.NewReader(c).ReadByte()
	return err
}
