package bench

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Cases of the DNS benchmark.
const (
	caseExisting = "existing"
	caseMissing  = "nxdomain"
)

// DNS measures look-ups of the cluster's DNS from inside a pod: a name that exists, and one that does not.
func DNS(ctx context.Context, b *Bench, load Load) error {
	lookups, err := b.lookups(ctx)
	if err != nil {
		return err
	}
	ns, remove, err := b.namespace(ctx)
	if err != nil {
		return err
	}
	defer remove()
	b.progress("starting a load pod in namespace %s", ns)
	if _, err := b.Client.CoreV1().Pods(ns).Create(ctx, b.pod("load", "bench", "idle"), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create pod load: %w", err)
	}
	if _, err := b.awaitReady(ctx, ns, "load"); err != nil {
		return err
	}
	cmd := []string{"/skep", "bench", "lookups", "--workers", strconv.Itoa(load.Workers), "--rounds", strconv.Itoa(load.Rounds), "--length", load.Length.String()}
	for _, l := range lookups {
		cmd = append(cmd, "--lookup", l.String())
	}
	samples := map[string][]lookupSample{}
	err = b.exec(ctx, ns, "load", cmd, func(lines io.Reader) error {
		return eachLine(lines, func(s lookupSample) {
			b.progress("round %d  %s %-9s  %8.0f look-ups/s  %6.1f us", s.Round+1, s.Server, s.Case, s.Queries, s.P50)
			samples[s.Server+"/"+s.Case] = append(samples[s.Server+"/"+s.Case], s)
		})
	})
	if err != nil {
		return err
	}
	return write(b.Out, dnsReport(load, lookups, samples), dnsColumns, b.JSON)
}

func dnsReport(load Load, lookups []Lookup, samples map[string][]lookupSample) Report[DNSRow] {
	r := Report[DNSRow]{Benchmark: "dns", Conditions: map[string]any{
		"cpus": runtime.NumCPU(), "outstanding": load.Workers, "rounds": load.Rounds, "seconds": load.Length.Seconds()}}
	for _, l := range lookups {
		of := func(figure func(lookupSample) float64) float64 {
			var all []float64
			for _, s := range samples[l.Server+"/"+l.Case] {
				all = append(all, figure(s))
			}
			return roundTenth(median(all))
		}
		r.Rows = append(r.Rows, DNSRow{Server: l.Server, Case: l.Case,
			QueriesPerSecond: of(func(s lookupSample) float64 { return s.Queries }),
			P50Us:            of(func(s lookupSample) float64 { return s.P50 }),
			P99Us:            of(func(s lookupSample) float64 { return s.P99 }),
			CPUUsPerQuery:    of(func(s lookupSample) float64 { return s.CPUUsPerQuery })})
	}
	return r
}

// lookups asks for the Service kubernetes, which every cluster has, at the cluster DNS Service's address.
func (b *Bench) lookups(ctx context.Context) ([]Lookup, error) {
	svc, err := b.Client.CoreV1().Services(metav1.NamespaceSystem).Get(ctx, "kube-dns", metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("find the cluster's DNS: %w", err)
	}
	addr, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil {
		return nil, fmt.Errorf("cluster IP of service kube-system/kube-dns: %w", err)
	}
	server := netip.AddrPortFrom(addr, 53)
	return []Lookup{
		{Server: "skep", Case: caseExisting, Addr: server, Name: "kubernetes.default.svc." + b.Domain},
		{Server: "skep", Case: caseMissing, Addr: server, Name: "no-such-service.default.svc." + b.Domain},
	}, nil
}
