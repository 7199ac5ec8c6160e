// Command nodes measures what the network costs pods: it starts two clusters of two nodes each on this machine, one with direct routes
// and one with the tunnel for all, and in turn sends a stream, and asks questions one at a time, from node to node and from a pod of
// one node to a pod of the other, over the same link; and between two pods of a node, beside a veth with nothing else. It prints
// medians, and their ratio to what the nodes themselves, or the veth, get. It needs root and a built skep.
//
//	go run ./test/bench/nodes -skep bin/skep -rounds 9
package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	skep := flag.String("skep", "bin/skep", "the binary")
	rounds := flag.Int("rounds", 9, "rounds; the median of them counts")
	each := flag.Duration("each", time.Second, "how long each measurement takes")
	flag.Parse()
	if err := run(*skep, *rounds, *each); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// a pair is where a measurement goes from and to.
type pair struct {
	name string
	// from and to are network namespaces.
	from, to string
	address  netip.Addr
	// like is the index of the pair that it is compared with.
	like int

	rates, questions []float64
}

func run(skep string, rounds int, each time.Duration) (err error) {
	binary, err := filepath.Abs(skep)
	if err != nil {
		return err
	}
	bare, removeBare, err := makeBare(fmt.Sprintf("skep-bench-%d", os.Getpid()))
	defer func() { err = errors.Join(err, removeBare()) }()
	if err != nil {
		return err
	}
	pairs := []*pair{bare}
	for _, c := range []struct{ name, mode string }{{"direct", "auto"}, {"tunnel", "always"}} {
		cluster := cluster{binary: binary, name: fmt.Sprintf("skep-bench-%s%d", c.name[:1], os.Getpid())}
		defer func() { err = errors.Join(err, cluster.remove()) }()
		if err := cluster.start(c.mode); err != nil {
			return err
		}
		near, err := cluster.pods(1)
		if err != nil {
			return err
		}
		away, err := cluster.pods(2)
		if err != nil {
			return err
		}
		if len(near) != 2 || len(away) != 1 {
			return fmt.Errorf("the nodes have %d and %d pods, want two and one", len(near), len(away))
		}
		if c.mode == "auto" {
			pairs = append(pairs, &pair{name: "pods of a node", from: near[0].netns, to: near[1].netns, address: near[1].address})
		}
		host := len(pairs)
		pairs = append(pairs,
			&pair{name: "node to node", from: cluster.netns(1), to: cluster.netns(2), address: netip.MustParseAddr("198.19.83.2"), like: host},
			&pair{name: "pod to pod, " + c.name, from: near[0].netns, to: away[0].netns, address: away[0].address, like: host})
	}
	for round := range rounds + 1 {
		for _, p := range pairs {
			rate, questions, err := measure(p, each)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if round > 0 { // the first one warms up
				p.rates, p.questions = append(p.rates, rate), append(p.questions, questions)
			}
		}
	}
	fmt.Printf("%-20s %22s %7s %26s %7s\n", "", "stream Gbit/s (spread)", "ratio", "round trips/s (spread)", "ratio")
	for _, p := range pairs {
		like := pairs[p.like]
		fmt.Printf("%-20s %10.1f (%4.1f-%4.1f) %7.2f %12.0f (%5.0f-%5.0f) %7.2f\n", p.name,
			median(p.rates), slices.Min(p.rates), slices.Max(p.rates), ratio(p.rates, like.rates),
			median(p.questions), slices.Min(p.questions), slices.Max(p.questions), ratio(p.questions, like.questions))
	}
	return nil
}

// ratio is the median of the ratios of measurements that were made next to each other: the machine's drift is the same for both.
func ratio(of, to []float64) float64 {
	var list []float64
	for i := range of {
		list = append(list, of[i]/to[i])
	}
	return median(list)
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

// cluster is two nodes in a network namespace of their own.
type cluster struct{ binary, name string }

func (c cluster) dir() string { return filepath.Join(os.TempDir(), c.name) }

func (c cluster) runDir(node int) string {
	if node == 1 {
		return c.dir() + "/run"
	}
	return c.dir() + "/run/nodes/node-" + strconv.Itoa(node)
}

func (c cluster) netns(node int) string {
	if node == 1 {
		return "/run/netns/" + c.name
	}
	return c.runDir(node) + "/host.netns"
}

func (c cluster) places() []string {
	return []string{"--data-dir", c.dir() + "/data", "--run-dir", c.dir() + "/run", "--bpf-dir", "/sys/fs/bpf/" + c.name, "--cgroup", c.name}
}

func (c cluster) skep(node int, stdin string, args ...string) error {
	cmd := exec.Command("nsenter", append([]string{"--net=" + c.netns(node), c.binary}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.dir()+"/data/kubeconfig")
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("skep %s: %w: %s", args[0], err, out)
	}
	return nil
}

const sleeper = `{apiVersion: v1, kind: Pod, metadata: {name: p%[1]d}, spec: {nodeName: node-%[2]d, terminationGracePeriodSeconds: 1,
  containers: [{name: c, image: "skep.dev/skep:self", imagePullPolicy: Never, args: [serve, echo]}]}}
---
`

// start starts the nodes with a pod on each.
func (c cluster) start(mode string) error {
	if out, err := exec.Command("bash", "-ec", "ip netns add "+c.name+"; ip -n "+c.name+" link set lo up").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	up := []string{"up", "--detach", "--nodes", "2", "--node-name", "node-1", "--tunnel", mode}
	if err := c.skep(1, "", append(up, c.places()...)...); err != nil {
		return err
	}
	manifest := ""
	for node := 1; node <= 2; node++ {
		if err := c.skep(node, "", "image", "self", "--run-dir", c.runDir(node)); err != nil {
			return err
		}
	}
	for i, node := range []int{1, 1, 2} {
		manifest += fmt.Sprintf(sleeper, i, node)
	}
	if err := c.skep(1, manifest, "apply", "-f", "-"); err != nil {
		return err
	}
	return c.skep(1, "", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
}

// pod is where a pod's network is.
type pod struct {
	netns   string
	address netip.Addr
}

// pods finds the pods of a node.
func (c cluster) pods(node int) ([]pod, error) {
	names, err := filepath.Glob(c.runDir(node) + "/netns/*")
	if err != nil {
		return nil, err
	}
	var pods []pod
	for _, name := range names {
		address, err := addressIn(name)
		if err != nil {
			return nil, fmt.Errorf("pod in %s: %w", name, err)
		}
		pods = append(pods, pod{name, address})
	}
	return pods, nil
}

// makeBare makes two network namespaces with a veth between them.
func makeBare(name string) (p *pair, remove func() error, err error) {
	remove = func() error {
		return errors.Join(exec.Command("ip", "netns", "del", name+"-a").Run(), exec.Command("ip", "netns", "del", name+"-b").Run())
	}
	out, err := exec.Command("bash", "-ec", fmt.Sprintf(`
ip netns add %[1]s-a
ip netns add %[1]s-b
ip -n %[1]s-a link add eth0 type veth peer name eth0 netns %[1]s-b
ip -n %[1]s-a addr add 198.19.82.1/24 dev eth0
ip -n %[1]s-b addr add 198.19.82.2/24 dev eth0
ip -n %[1]s-a link set eth0 up
ip -n %[1]s-b link set eth0 up`, name)).CombinedOutput()
	if err != nil {
		return nil, remove, fmt.Errorf("%w: %s", err, out)
	}
	return &pair{name: "veth", from: "/run/netns/" + name + "-a", to: "/run/netns/" + name + "-b", address: netip.MustParseAddr("198.19.82.2")}, remove, nil
}

func (c cluster) remove() error {
	if err := c.skep(1, "", append([]string{"down", "--purge"}, c.places()...)...); err != nil {
		return err
	}
	if out, err := exec.Command("ip", "netns", "del", c.name).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return os.RemoveAll(c.dir())
}
