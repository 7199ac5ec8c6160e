package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"
)

// metrics reads what the node agent reports: values by name and labels.
func (n *node) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", n.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(cfg.CertData, cfg.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true},
		DisableKeepAlives: true, DialContext: n.dial,
	}}
	response, err := client.Get("https://" + nodeIP + ":10250/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s %v: %.200s", response.Status, err, text)
	}
	values := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || line[0] == '#' {
			continue
		}
		if values[line[:i]], err = strconv.ParseFloat(strings.TrimSpace(line[i:]), 64); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	return values
}

// dial connects within the node's network namespace.
func (n *node) dial(_ context.Context, network, address string) (net.Conn, error) {
	space, err := os.Open("/run/netns/" + n.name)
	if err != nil {
		return nil, err
	}
	defer space.Close()
	type result struct {
		net.Conn
		error
	}
	dialled := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		err := unix.Setns(int(space.Fd()), unix.CLONE_NEWNET)
		var c net.Conn
		if err == nil {
			c, err = net.DialTimeout(network, address, 10*time.Second)
		}
		dialled <- result{c, err}
	}()
	r := <-dialled
	return r.Conn, r.error
}

// TestServiceMetrics calls a Service, by socket and by packet, and sees its counters move by as much.
func TestServiceMetrics(t *testing.T) {
	ns, _, ip := demo(t, 30098)
	series := func(name, labels string) string {
		return fmt.Sprintf(`skep_service_%s{%snamespace=%q,port="http",service="echo"}`, name, labels, ns)
	}
	labelled := func(name, direction, path string) string {
		return fmt.Sprintf(`skep_service_%s{%snamespace=%q,path=%q,port="http",service="echo"}`, name, direction, ns, path)
	}
	const there, back = `direction="to_backend",`, `direction="from_backend",`
	for range 5 {
		must(t)(shared.inside("net", "call", "http://"+ip+"/"))
	}
	for range 4 {
		must(t)(shared.outside("net", "call", "http://"+nodeIP+":30098/"))
	}
	var got map[string]float64
	// What flows have carried is in the next sweep of their table, what sockets have once they are closed at both ends.
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if got = shared.metrics(t); got[labelled("bytes_total", back, "packet")] >= 4*250 && got[labelled("bytes_total", back, "socket")] > 0 {
			break
		}
	}
	for name, want := range map[string]float64{
		labelled("connections_total", "", "socket"): 5, labelled("connections_total", "", "packet"): 4, series("refused_total", ""): 0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s %v %t, want %v", name, v, ok, want)
		}
	}
	// A call is a request of some hundred bytes and an answer of another few.
	for name, want := range map[string][2]float64{
		labelled("bytes_total", there, "socket"): {5 * 50, 5 * 500}, labelled("bytes_total", back, "socket"): {5 * 50, 5 * 1000},
		labelled("bytes_total", there, "packet"): {4 * 250, 4 * 2000}, labelled("bytes_total", back, "packet"): {4 * 250, 4 * 3000},
		"kubeproxy_network_programming_duration_seconds_count": {1, 1e6},
		"kubeproxy_sync_proxy_rules_endpoint_changes_total":    {1, 1e6},
		`skep_datapath_map_capacity_rows{map="conntrack"}`:     {262144, 262144},
		"kubeproxy_sync_proxy_rules_last_timestamp_seconds":    {1e9, 1e11},
		"skep_datapath_policy_programming_seconds_count":       {1, 1e6},
	} {
		if v := got[name]; v < want[0] || v > want[1] {
			t.Errorf("%s %v, want %v to %v", name, v, want[0], want[1])
		}
	}
	must(t)(shared.skep("delete", "service", "echo", "-n", ns))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if _, there := shared.metrics(t)[series("refused_total", "")]; !there {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the metrics of a Service that is gone are still there")
		}
	}
}
