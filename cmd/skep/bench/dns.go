package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Cases of the DNS benchmark.
const (
	caseExisting = "existing"
	caseMissing  = "nxdomain"
	// caseWalk is a resolver's walk of its search list to a name outside the cluster.
	caseWalk = "walk"
)

// ownServer names the cluster's own DNS, as its pods have it, in rows.
const ownServer = "skep"

// DNSOptions say what the DNS benchmark measures.
type DNSOptions struct {
	Load Load
	// Peers are servers to measure beside the cluster's own, started on this machine, which must be the load's node. None measures
	// the cluster's own alone.
	Peers []Peer
	// Services are how many there are beside the cluster's own, one number after the other, where there are peers.
	Services []int
	// Trials are how many Services are made and removed to see how soon names follow.
	Trials int
}

// DNS measures look-ups of the cluster's DNS from inside a pod: a name that exists, and one that does not; with peers, much more.
func DNS(ctx context.Context, b *Bench, o DNSOptions) (err error) {
	own, err := b.ownDNS(ctx)
	if err != nil {
		return err
	}
	ns, remove, err := b.namespace(ctx)
	if err != nil {
		return err
	}
	defer remove()
	b.progress("starting a load pod in namespace %s", ns)
	load := b.pod("load", "bench", "idle")
	// With the machine's processes before its eyes it sees what a server's takes.
	load.Spec.HostPID = len(o.Peers) > 0
	if _, err := b.Client.CoreV1().Pods(ns).Create(ctx, load, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create pod load: %w", err)
	}
	if load, err = b.awaitReady(ctx, ns, "load"); err != nil {
		return err
	}
	r := dnsRun{b: b, o: o, ns: ns, own: own, report: DNSReport{Report: Report[DNSRow]{Benchmark: "dns", Conditions: map[string]any{
		"cpus": runtime.NumCPU(), "outstanding": o.Load.Workers, "rounds": o.Load.Rounds, "seconds": o.Load.Length.Seconds()}}}}
	if len(o.Peers) == 0 {
		err = r.alone(ctx)
	} else {
		err = r.beside(ctx, load)
	}
	if err != nil {
		return err
	}
	return r.report.write(b.Out, b.JSON)
}

// dnsRun is one run of the benchmark.
type dnsRun struct {
	b      *Bench
	o      DNSOptions
	ns     string
	own    netip.AddrPort
	report DNSReport
}

// alone measures the Service kubernetes, which every cluster has.
func (r *dnsRun) alone(ctx context.Context) error {
	lookups := []Lookup{
		{Server: ownServer, Case: caseExisting, Addr: r.own, Name: "kubernetes.default.svc." + r.b.Domain},
		{Server: ownServer, Case: caseMissing, Addr: r.own, Name: "no-such-service.default.svc." + r.b.Domain},
	}
	samples, err := r.load(ctx, lookups)
	for _, l := range lookups {
		r.report.Rows = append(r.report.Rows, samples.row(l))
	}
	return err
}

// beside measures the cluster's own server and its peers, with each number of Services.
func (r *dnsRun) beside(ctx context.Context, load *corev1.Pod) (err error) {
	f, err := newField(ctx, r, load)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	for _, n := range r.o.Services {
		if err := f.measure(ctx, n); err != nil {
			return fmt.Errorf("with %d Services: %w", n, err)
		}
	}
	r.report.compare()
	return nil
}

// samples are what the load side printed, by server and case, those of paced loads apart.
type samples map[string][]lookupSample

func sampleKey(server, kind string, rate int) string {
	return fmt.Sprintf("%s/%s/%v", server, kind, rate > 0)
}

// load runs the look-ups in the load pod.
func (r *dnsRun) load(ctx context.Context, lookups []Lookup) (samples, error) {
	load := r.o.Load
	cmd := []string{"/skep", "bench", "lookups", "--workers", strconv.Itoa(load.Workers), "--rounds", strconv.Itoa(load.Rounds), "--length", load.Length.String()}
	for _, l := range lookups {
		cmd = append(cmd, "--lookup", l.String())
	}
	got := samples{}
	err := r.b.exec(ctx, r.ns, "load", cmd, func(lines io.Reader) error {
		return eachLine(lines, func(s lookupSample) {
			r.b.progress("round %d  %-12s %-9s  %8.0f look-ups/s  p50 %6.1f us  p99 %6.1f us", s.Round+1, s.Server, s.Case, max(s.Queries, float64(s.Rate)), s.P50, s.P99)
			key := sampleKey(s.Server, s.Case, s.Rate)
			got[key] = append(got[key], s)
		})
	})
	return got, err
}

// of is the median of a figure over the rounds.
func (s samples) of(l Lookup, rate int, figure func(lookupSample) float64) float64 {
	var all []float64
	for _, one := range s[sampleKey(l.Server, l.Case, rate)] {
		all = append(all, figure(one))
	}
	return roundTenth(median(all))
}

// row puts the medians of a look-up together.
func (s samples) row(l Lookup) DNSRow {
	row := DNSRow{Server: l.Server, Case: l.Case,
		QueriesPerSecond:    s.of(l, 0, func(s lookupSample) float64 { return s.Queries }),
		P50Us:               s.of(l, 0, func(s lookupSample) float64 { return s.P50 }),
		P99Us:               s.of(l, 0, func(s lookupSample) float64 { return s.P99 }),
		CPUUsPerQuery:       s.of(l, 0, func(s lookupSample) float64 { return s.CPUUsPerQuery }),
		ServerCPUUsPerQuery: s.of(l, 0, func(s lookupSample) float64 { return s.ServerCPUUs }),
		PacedP50Us:          s.of(l, 1, func(s lookupSample) float64 { return s.P50 }),
		PacedP99Us:          s.of(l, 1, func(s lookupSample) float64 { return s.P99 }),
	}
	for _, one := range s[sampleKey(l.Server, l.Case, 1)] {
		row.Rate, row.Lost = one.Rate, row.Lost+one.Lost
	}
	return row
}

// ownDNS is the address of the cluster DNS Service.
func (b *Bench) ownDNS(ctx context.Context) (netip.AddrPort, error) {
	svc, err := b.Client.CoreV1().Services(metav1.NamespaceSystem).Get(ctx, "kube-dns", metav1.GetOptions{})
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find the cluster's DNS: %w", err)
	}
	addr, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("cluster IP of service kube-system/kube-dns: %w", err)
	}
	return netip.AddrPortFrom(addr, 53), nil
}
