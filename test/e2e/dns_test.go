package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/dns/server"
)

// TestKernelAnswersLookups has a pod look names up that the kernel has, and once more with nobody else there.
func TestKernelAnswersLookups(t *testing.T) {
	ns, pods, _ := demo(t, 30197)
	look := pods[0]
	run := filepath.Join(shared.dir, "run")
	answered := func() (n uint64) {
		var st server.Stats
		if err := json.Unmarshal([]byte(must(t)(shared.skep("dns", "stats", "-o", "json", "--run-dir", run))), &st); err != nil {
			t.Fatal(err)
		}
		if st.Kernel.State != "answers" {
			t.Fatalf("%+v", st.Kernel)
		}
		for what, count := range st.Answers {
			if strings.HasPrefix(what, "kernel ") {
				n += count
			}
		}
		return n
	}
	before := answered()
	const name = "kubernetes.default.svc.cluster.local"
	must(t)(shared.skep("exec", "-n", ns, look, "--", "/skep", "dns", "lookup", name+"."))
	if after := answered(); after != before+1 {
		t.Errorf("the kernel answered %d look-ups, then %d", before, after)
	}
	if out := must(t)(shared.skep("dns", "lookup", "kubernetes.default", "--from", look, "-n", ns, "--run-dir", run)); !strings.Contains(out, "kernel: ") {
		t.Errorf("nothing says that the kernel answers: %s", out)
	}
	pod, err := shared.client.CoreV1().Pods(ns).Get(t.Context(), look, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := shared.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	router := netip.MustParsePrefix(nodes.Items[0].Spec.PodCIDR).Addr().Next().String()
	kill(t)
	t.Cleanup(func() {
		if err := shared.up(); err != nil {
			t.Fatal(err)
		}
	})
	netns := filepath.Join(run, "netns", string(pod.UID))
	if _, err := os.Stat(netns); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if out := must(t)(combined(exec.Command("nsenter", "--net="+netns, shared.binary, "dns", "lookup", name+".", "--server", router))); !strings.Contains(out, "10.97.0.1") {
			t.Errorf("with the process gone: %s", out)
		}
	}
}

// TestLookupsLoseNothing has a pod's network look up 10,000 names a second, that are there and that are not, while the node's process is
// killed, started and replaced.
func TestLookupsLoseNothing(t *testing.T) {
	ns, pods, _ := demo(t, 30198)
	pod, err := shared.client.CoreV1().Pods(ns).Get(t.Context(), pods[0], metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	router := netip.MustParsePrefix(pod.Status.PodIP + "/24").Masked().Addr().Next()
	const length = 30 * time.Second
	type sample struct {
		Case string
		Lost int
		P99  float64 `json:"p99Us"`
	}
	results := make(chan error, 2)
	for _, question := range []string{"existing=%s:53/kubernetes.default.svc.cluster.local", "nxdomain=%s:53/nobody.default.svc.cluster.local"} {
		cmd := exec.CommandContext(t.Context(), "nsenter", "--net="+filepath.Join(shared.dir, "run", "netns", string(pod.UID)), shared.binary,
			"bench", "lookups", "--rounds", "1", "--length", length.String(), "--lookup", "kernel/"+fmt.Sprintf(question, router)+"@5000")
		go func() {
			out, err := cmd.Output()
			var s sample
			if err == nil {
				err = json.Unmarshal(out, &s)
			}
			if err == nil && s.Lost > 0 {
				err = fmt.Errorf("%d look-ups of 150,000 without an answer within a second", s.Lost)
			}
			t.Logf("%s: p99 %.0f us", s.Case, s.P99)
			results <- err
		}()
	}
	restart := func() {
		kill(t)
		if err := shared.up(); err != nil {
			t.Fatal(err)
		}
	}
	other, done := otherBuild(t), 0
	for began := time.Now(); time.Since(began) < length/2; done++ {
		restart()
		replace(t, other)
		restart() // by the first build again
	}
	t.Logf("killed %d times, replaced %d times", 2*done, done)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func combined(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	return string(out), err
}
