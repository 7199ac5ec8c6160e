package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// corefile is CoreDNS at its best: a socket for each CPU, a cache, no log.
const corefile = `.:%d {
    bind %s
    errors
    kubernetes %s in-addr.arpa ip6.arpa {
        kubeconfig %s
        pods insecure
        ttl 30
        fallthrough in-addr.arpa ip6.arpa
    }
    cache 30
    loadbalance
    multisocket
}
`

// peer is one DNS server under measurement.
type peer struct {
	name string
	addr netip.AddrPort
	cmd  *exec.Cmd
}

func (p *peer) stop() {
	_ = p.cmd.Process.Kill() // it holds nothing
	_ = p.cmd.Wait()
}

func startPeers(o options, dir string) ([]*peer, error) {
	skep := netip.AddrPortFrom(netip.MustParseAddr(serverIP), 5301)
	coredns := netip.AddrPortFrom(skep.Addr(), 5302)
	file := filepath.Join(dir, "Corefile")
	if err := os.WriteFile(file, fmt.Appendf(nil, corefile, coredns.Port(), serverIP, domain, kubeconfig(dir)), 0o600); err != nil {
		return nil, err
	}
	peers := []*peer{{name: "skep", addr: skep, cmd: exec.Command(o.skep, "dns", "serve", "--kubeconfig", kubeconfig(dir), "--listen", skep.String())}}
	if o.coredns != "" {
		peers = append(peers, &peer{name: "coredns", addr: coredns, cmd: exec.Command(o.coredns, "-conf", file)})
	}
	for i, p := range peers {
		p.cmd.Stderr = os.Stderr
		if err := p.cmd.Start(); err != nil {
			for _, started := range peers[:i] {
				started.stop()
			}
			return nil, fmt.Errorf("start %s: %w", p.name, err)
		}
	}
	return peers, nil
}

func makeServices(ctx context.Context, client kubernetes.Interface, from, to int) error {
	var group errgroup.Group
	group.SetLimit(32)
	for i := from; i < to; i++ {
		group.Go(func() error { return makeService(ctx, client, fmt.Sprintf("svc-%d", i), i) })
	}
	return group.Wait()
}

func makeService(ctx context.Context, client kubernetes.Interface, name string, i int) error {
	port := int32(8080)
	portName, protocol := "http", corev1.ProtocolTCP
	if _, err := client.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: portName, Port: 80, Protocol: protocol}}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := client.DiscoveryV1().EndpointSlices("default").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{fmt.Sprintf("10.244.%d.%d", i/250%250, i%250+1)}}, {Addresses: []string{fmt.Sprintf("10.245.%d.%d", i/250%250, i%250+1)}}},
	}, metav1.CreateOptions{})
	return err
}

// lookup asks once; an error is an answer that is none.
func lookup(p *peer, name string) (int, error) {
	m, _, err := (&dns.Client{Timeout: time.Second}).Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), p.addr.String())
	if err != nil {
		return -1, err
	}
	return m.Rcode, nil
}

// await asks until the code is the wanted one, and returns how long that took.
func await(ctx context.Context, p *peer, name string, rcode int, within time.Duration) (time.Duration, error) {
	began := time.Now()
	for time.Since(began) < within && ctx.Err() == nil {
		if got, err := lookup(p, name); err == nil && got == rcode {
			return time.Since(began), nil
		}
		time.Sleep(200 * time.Microsecond)
	}
	return 0, fmt.Errorf("%s does not answer %s for %s within %v", p.name, dns.RcodeToString[rcode], name, within)
}

func serviceName(name string) string { return name + ".default.svc." + domain + "." }

// compare measures both servers with n Services.
func compare(ctx context.Context, o options, client kubernetes.Interface, dir, netns string, n int) error {
	peers, err := startPeers(o, dir)
	if err != nil {
		return err
	}
	results := map[string]*result{}
	for _, p := range peers {
		defer p.stop()
		results[p.name] = &result{}
		if _, err := await(ctx, p, serviceName("svc-"+strconv.Itoa(n-1)), dns.RcodeSuccess, time.Minute); err != nil {
			return err
		}
	}
	for _, p := range peers {
		if err := follow(ctx, o, client, p, results[p.name]); err != nil {
			return err
		}
	}
	if err := load(ctx, o, netns, peers, n); err != nil {
		return err
	}
	for _, p := range peers {
		fmt.Printf("%d Services  %-8s  RSS %.1f MiB  create to resolvable p50 %.1f ms p99 %.1f ms, asked before %.1f ms  delete to NXDOMAIN p99 %.1f ms\n", n, p.name, rss(p),
			results[p.name].percentile(results[p.name].created, 50), results[p.name].percentile(results[p.name].created, 99),
			results[p.name].percentile(results[p.name].asked, 99), results[p.name].percentile(results[p.name].deleted, 99))
	}
	return nil
}

// result are times in which names followed the API.
type result struct{ created, asked, deleted []time.Duration }

func (*result) percentile(d []time.Duration, p int) float64 {
	if len(d) == 0 {
		return -1
	}
	s := slices.Sorted(slices.Values(d))
	return float64(s[min(len(s)*p/100, len(s)-1)].Microseconds()) / 1000
}

// follow makes and removes Services and sees how soon the names are there and gone. One more is asked for before it exists.
func follow(ctx context.Context, o options, client kubernetes.Interface, p *peer, r *result) error {
	services := client.CoreV1().Services("default")
	slices := client.DiscoveryV1().EndpointSlices("default")
	for i := range o.trials + 1 {
		name := fmt.Sprintf("trial-%s-%d", p.name, i)
		asked := i == o.trials
		if asked {
			if _, err := lookup(p, serviceName(name)); err != nil {
				return err
			}
		}
		if err := makeService(ctx, client, name, 60000+i); err != nil {
			return err
		}
		took, err := await(ctx, p, serviceName(name), dns.RcodeSuccess, time.Minute)
		if err != nil {
			return err
		}
		if asked {
			r.asked = append(r.asked, took)
		} else {
			r.created = append(r.created, took)
		}
		if err := slices.Delete(ctx, name+"-1", metav1.DeleteOptions{}); err != nil {
			return err
		}
		if err := services.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		if asked || i >= 1 && p.name == "coredns" {
			continue // its cache makes each of these 30 s: one shows it
		}
		if took, err = await(ctx, p, serviceName(name), dns.RcodeNameError, time.Minute); err != nil {
			return err
		}
		r.deleted = append(r.deleted, took)
	}
	return nil
}

// sample is a line of the load.
type sample struct {
	Server, Case        string
	QueriesPerSecond    float64
	P50Us, P99Us        float64
	CPUUsPerQuery       float64 `json:"cpuUsPerQuery"`
	ServerCPUUsPerQuery float64 `json:"serverCpuUsPerQuery"`
}

// load runs the load side in its namespace and prints medians and ratios.
func load(ctx context.Context, o options, netns string, peers []*peer, n int) error {
	args := []string{"netns", "exec", netns, o.skep, "bench", "lookups", "--workers", strconv.Itoa(o.workers), "--rounds", strconv.Itoa(o.rounds), "--length", o.length.String()}
	for _, kind := range []string{"existing", "nxdomain"} {
		name := serviceName("svc-" + strconv.Itoa(n/2))
		if kind == "nxdomain" {
			name = serviceName("no-such-service")
		}
		for _, p := range peers {
			args = append(args, "--lookup", fmt.Sprintf("%s/%s=%s/%s#%d", p.name, kind, p.addr, strings.TrimSuffix(name, "."), p.cmd.Process.Pid))
		}
	}
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	samples := map[string][]sample{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var s sample
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return fmt.Errorf("load: %q: %w", lines.Text(), err)
		}
		samples[s.Case+"/"+s.Server] = append(samples[s.Case+"/"+s.Server], s)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	for _, kind := range []string{"existing", "nxdomain"} {
		report(n, kind, peers, samples)
	}
	return nil
}

func report(n int, kind string, peers []*peer, samples map[string][]sample) {
	figures := []func(sample) float64{func(s sample) float64 { return s.QueriesPerSecond }, func(s sample) float64 { return s.P50Us }, func(s sample) float64 { return s.P99Us },
		func(s sample) float64 { return s.CPUUsPerQuery }, func(s sample) float64 { return s.ServerCPUUsPerQuery }}
	var rows [][]float64
	for _, p := range peers {
		var row []float64
		for _, figure := range figures {
			var all []float64
			for _, s := range samples[kind+"/"+p.name] {
				all = append(all, figure(s))
			}
			slices.Sort(all)
			row = append(row, all[len(all)/2])
		}
		rows = append(rows, row)
		fmt.Printf("%d Services  %-8s  %-8s  %8.0f/s  p50 %6.1f us  p99 %7.1f us  CPU/query: machine %5.1f us, server %5.1f us\n", n, p.name, kind, row[0], row[1], row[2], row[3], row[4])
	}
	if len(rows) == 2 {
		a, b := rows[0], rows[1]
		fmt.Printf("%d Services  ratio     %-8s  %8.2f    p50 %6.2f     p99 %7.2f     CPU/query: machine %5.2f,    server %5.2f\n", n, kind, a[0]/b[0], a[1]/b[1], a[2]/b[2], a[3]/b[3], a[4]/b[4])
	}
}

// rss is the resident memory of a server in MiB.
func rss(p *peer) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
			return kib / 1024
		}
	}
	return -1
}
