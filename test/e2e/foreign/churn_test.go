package foreign

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// churn adds and deletes sandboxes side by side while agents are killed: nothing may stay of any, and no address may be two's.
func (n *foreignNode) churn(t *testing.T, web sandbox) {
	const pods, rounds, kills = 8, 3, 2
	before := n.attached(t)
	var added, refused atomic.Int32
	var owners sync.Map // address -> sandbox
	var work sync.WaitGroup
	for i := range pods {
		pod, err := n.client.CoreV1().Pods("default").Create(t.Context(), podNamed(fmt.Sprintf("churn-%d", i), 0), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		work.Go(func() {
			for round := range rounds {
				tries := n.cycle(t, pod, fmt.Sprintf("churn-%d-%d", i, round), web, &owners)
				added.Add(1)
				refused.Add(int32(tries - 1))
			}
		})
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	for i := range kills {
		// At another place of the cycles each time; there is no event that would tell them all.
		select {
		case <-done:
		case <-time.After(time.Duration(300+200*i) * time.Millisecond):
		}
		n.killAgent(t)
		n.startAgent(t)
	}
	<-done
	t.Logf("%d sandboxes, %d attempts to be tried again, %d agents killed", added.Load(), refused.Load(), kills)
	if after := n.attached(t); !slices.Equal(before, after) {
		t.Errorf("attached before %v, after %v", before, after)
	}
}

// cycle makes one sandbox and removes it, and returns how often it had to ask.
func (n *foreignNode) cycle(t *testing.T, pod *corev1.Pod, id string, web sandbox, owners *sync.Map) (tries int) {
	netns := n.name + "-" + id
	if out, err := exec.Command("ip", "netns", "add", netns).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
		return 1
	}
	defer func() {
		if out, err := exec.Command("ip", "netns", "del", netns).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}()
	config := `{"cniVersion": "1.0.0", "name": "skep", "type": "skep", "socket": "` + n.dir + `/run/cni.sock"}`
	env := []string{"CNI_CONTAINERID=" + id, "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/" + netns,
		"CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + pod.Name + ";K8S_POD_UID=" + string(pod.UID) + ";IgnoreUnknown=1"}
	var result struct {
		IPs []struct{ Address string }
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		tries++
		out, ok := n.plugin(t, "ADD", config, env...)
		if ok {
			if err := json.Unmarshal([]byte(out), &result); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			break
		}
		if time.Now().After(deadline) || !strings.Contains(out, `"code": 11`) {
			t.Errorf("ADD %s: %s", id, out)
			break
		}
	}
	for _, ip := range result.IPs {
		if other, taken := owners.LoadOrStore(ip.Address, id); taken {
			t.Errorf("%s belongs to %s and %s", ip.Address, other, id)
		}
	}
	if out, err := n.command("/run/netns/"+netns, "net", "call", "http://"+web.ip+":8080/", "--wait", "5s").CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", id, err, out)
	}
	for _, ip := range result.IPs {
		owners.Delete(ip.Address)
	}
	if out, ok := n.plugin(t, "DEL", config, env...); !ok {
		t.Errorf("DEL %s: %s", id, out)
	}
	return tries
}

// attached are the sandboxes that the agent holds, and the addresses that the programs know.
func (n *foreignNode) attached(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(n.dir + "/run/netns")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	var endpoints []struct{ Address string }
	if err := json.Unmarshal([]byte(must(t)(n.skep("net", "endpoints", "-o", "json", "--bpf-dir", "/sys/fs/bpf/"+n.name))), &endpoints); err != nil {
		t.Fatal(err)
	}
	for _, e := range endpoints {
		list = append(list, e.Address)
	}
	slices.Sort(list)
	return list
}
