package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// turmoil is three nodes on which everything comes and goes under load: rollouts, Services, policies, pods, a node, and the agents, which
// are killed. Nothing that clients have a right to may fail, and nothing may be left.
type turmoil struct {
	machine
	t      *testing.T
	client kubernetes.Interface
	until  time.Time

	mu     sync.Mutex
	events []string
	counts map[string]int
	// leaving is held while a node is away, or the first one is: they depend on each other.
	leaving sync.Mutex
	// fellow3 are the arguments that start the third node.
	fellow3 []string
}

// TestTurmoil runs for as long as SKEP_CHURN says, for example 10m; SKEP_CHURN_SEED repeats the order of an earlier run, and
// SKEP_CHURN_ONLY names the kinds of change, separated by commas, that happen.
func TestTurmoil(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("SKEP_CHURN"))
	if err != nil {
		t.Skip("runs with `make test-churn`")
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SKEP_CHURN_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	c := &turmoil{machine: newMachine(t), t: t, counts: map[string]int{}}
	t.Logf("SKEP_CHURN_SEED=%d", seed)
	c.connect()
	c.furnish()
	c.fellow3 = c.argumentsOf(3)
	go c.watchEndpoints(t.Context())
	before := c.inventory()

	loads := c.startLoads()
	c.until = time.Now().Add(length)
	c.stir(seed)
	c.settle()
	time.Sleep(2 * time.Second) // what was done last counts too
	for _, load := range loads {
		c.judge(load)
	}
	c.stopLoads(loads)
	c.noLeaks(before)
	t.Logf("done: %v", c.counts)
	if t.Failed() {
		c.report()
	}
}

// connect makes a client whose connections are made in the first node's network namespace.
func (c *turmoil) connect() {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.dir+"/data/kubeconfig")
	if err != nil {
		c.t.Fatal(err)
	}
	cfg.QPS = -1
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dialIn(ctx, "/run/netns/"+c.name, network, addr)
	}
	if c.client, err = kubernetes.NewForConfig(cfg); err != nil {
		c.t.Fatal(err)
	}
}

// dialIn connects from a network namespace.
func dialIn(ctx context.Context, path, network, addr string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends here
		var ns netns.NsHandle
		if ns, err = netns.GetFromPath(path); err != nil {
			return
		}
		defer ns.Close()
		if err = netns.Set(ns); err != nil {
			return
		}
		// One address and no fallback: no other goroutine connects.
		conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, addr)
	}()
	<-done
	return conn, err
}

// note writes down what was done, for a failed test to tell what happened when.
func (c *turmoil) note(kind, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[kind]++
	c.events = append(c.events, time.Now().Format(time.StampMilli)+" "+kind+": "+fmt.Sprintf(format, args...))
}

// watchEndpoints notes who serves the echo Service as the API says, so that a refusal can be told from a fault.
func (c *turmoil) watchEndpoints(ctx context.Context) {
	for ctx.Err() == nil {
		w, err := c.client.DiscoveryV1().EndpointSlices("default").Watch(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=echo"})
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for e := range w.ResultChan() {
			slice, ok := e.Object.(*discoveryv1.EndpointSlice)
			if !ok {
				break
			}
			var list []string
			for _, ep := range slice.Endpoints {
				is := func(b *bool, letter string) string {
					if b != nil && *b {
						return letter
					}
					return "-"
				}
				list = append(list, ep.Addresses[0]+is(ep.Conditions.Ready, "r")+is(ep.Conditions.Serving, "s")+is(ep.Conditions.Terminating, "t"))
			}
			c.note("endpoints", "%s %v", e.Type, list)
		}
		w.Stop()
	}
}

// report prints what was done, and the last complaints of the nodes.
func (c *turmoil) report() {
	c.t.Logf("what was done:\n%s", strings.Join(c.events, "\n"))
	for node := 1; node <= 3; node++ {
		name := c.dir + "/data/skep.log"
		if node > 1 {
			name = fmt.Sprintf("%s/data/nodes/node-%d/skep.log", c.dir, node)
		}
		out, _ := exec.Command("bash", "-c", `grep -aE '"?level"?[=:]"?(WARN|ERROR)|panic|fatal error' "$0" | grep -avE "took too long|request stats" | cut -c1-300 | tail -40`, name).CombinedOutput()
		c.t.Logf("complaints of node-%d:\n%s", node, out)
		if keep := os.Getenv("SKEP_CHURN_LOGS"); keep != "" {
			if out, err := exec.Command("cp", name, fmt.Sprintf("%s/node-%d.log", keep, node)).CombinedOutput(); err != nil {
				c.t.Logf("%v: %s", err, out)
			}
		}
	}
}

// try repeats what may fail while the first node is away.
func (c *turmoil) try(what string, f func() error) {
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	c.t.Errorf("%s: %v", what, err)
}

// apply applies manifests; cli runs skep with the kubeconfig; both try again while the API server is away.
func (c *turmoil) apply(name, manifest string) {
	file := filepath.Join(c.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		c.t.Error(err)
		return
	}
	c.cli("apply", "-f", file)
}

func (c *turmoil) cli(args ...string) {
	c.try(strings.Join(args, " "), func() error {
		out, err := c.in(1, args...)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// stir does every kind of change, each in its own rhythm, until the time is over.
func (c *turmoil) stir(seed uint64) {
	kinds := map[string]func(*rand.Rand, int){
		"rollout": c.rollout, "policy": c.policy, "service": c.service, "pods": c.pods, "kill": c.kill, "node": c.node,
	}
	only := os.Getenv("SKEP_CHURN_ONLY")
	var all sync.WaitGroup
	for kind, change := range kinds {
		if only != "" && !strings.Contains(","+only+",", ","+kind+",") {
			continue
		}
		dice := rand.New(rand.NewPCG(seed, uint64(len(kind))<<8|uint64(kind[0])))
		all.Go(func() {
			for i := 0; time.Now().Before(c.until) && !c.t.Failed(); i++ {
				change(dice, i)
				time.Sleep(time.Duration(500+dice.IntN(2000)) * time.Millisecond)
			}
		})
	}
	all.Wait()
}

// counts is what a load of several kinds has done.
type counts struct {
	Requests, Held, Datagrams, Connected, Resets, Failures int
	Errors                                                 []string
}

// judge fails the test for what failed of a load; an intruder must never have succeeded.
func (c *turmoil) judge(load string) {
	var n counts
	c.try("the count of "+load, func() error {
		out, err := c.in(1, "logs", load, "--tail=1")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		n = counts{}
		return json.Unmarshal([]byte(out), &n)
	})
	c.t.Logf("%s: %d requests, %d held, %d datagrams, %d connected datagrams (%d resets), %d failed", load, n.Requests, n.Held, n.Datagrams, n.Connected, n.Resets, n.Failures)
	if strings.HasPrefix(load, "intruder") {
		if n.Requests == 0 || n.Failures != n.Requests {
			c.t.Errorf("%s: %d of %d requests, which a policy forbids, were answered", load, n.Requests-n.Failures, n.Requests)
		}
		return
	}
	if n.Requests == 0 || n.Failures > 0 {
		c.t.Errorf("%s: %d failed:\n%s", load, n.Failures, strings.Join(n.Errors, "\n"))
	}
}

// pidOf is the process that holds a node's lock.
func (c *turmoil) pidOf(node int) (int, error) {
	run := c.dir + "/run"
	if node > 1 {
		run = fmt.Sprintf("%s/nodes/node-%d", run, node)
	}
	data, err := os.ReadFile(run + "/lock")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// end sends a signal to the process of a node and waits until it is gone.
func (c *turmoil) end(node int, signal unix.Signal) {
	pid, err := c.pidOf(node)
	if err != nil {
		c.t.Error(err)
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		c.t.Errorf("node-%d does not run: %v", node, err)
		return
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil {
		c.t.Error(err)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 30000); n != 1 {
		c.t.Errorf("node-%d does not end: %v", node, err)
	}
}
