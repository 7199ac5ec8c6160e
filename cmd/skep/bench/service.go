package bench

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Paths of the Service benchmark.
const (
	pathDirect    = "direct"
	pathClusterIP = "clusterip"
	pathNodePort  = "nodeport"
)

// Service measures a pod reaching another pod directly, through its Service's cluster IP, and through its node port,
// alternating in one run, and prints medians and the ratios to direct.
func Service(ctx context.Context, b *Bench, load Load) error {
	ns, remove, err := b.namespace(ctx)
	if err != nil {
		return err
	}
	defer remove()
	targets, err := b.serviceTargets(ctx, ns)
	if err != nil {
		return err
	}
	b.progress("measuring %d rounds over %d paths, %v for each of three kinds", load.Rounds, len(targets), load.Length)
	cmd := []string{"/skep", "bench", "client", "--workers", strconv.Itoa(load.Workers), "--rounds", strconv.Itoa(load.Rounds), "--length", load.Length.String()}
	for _, t := range targets {
		cmd = append(cmd, "--target", t.String())
	}
	samples := map[string][]sample{}
	err = b.exec(ctx, ns, "load", cmd, func(lines io.Reader) error {
		return eachLine(lines, func(s sample) {
			b.progress("round %d  %-9s  %8.0f connections/s  %6.1f us round trip  %6.1f Gbit/s", s.Round+1, s.Path, s.Connections, s.RoundTripP50, s.Throughput/1000)
			samples[s.Path] = append(samples[s.Path], s)
		})
	})
	if err != nil {
		return err
	}
	return write(b.Out, serviceReport(load, targets, samples), serviceColumns, b.JSON)
}

// serviceReport takes the median of each figure over the rounds.
func serviceReport(load Load, targets []Target, samples map[string][]sample) Report[ServiceRow] {
	r := Report[ServiceRow]{Benchmark: "service", Ratios: map[string]float64{}, Conditions: map[string]any{
		"cpus": runtime.NumCPU(), "workers": load.Workers, "rounds": load.Rounds, "seconds": load.Length.Seconds()}}
	rows := map[string]ServiceRow{}
	for _, t := range targets {
		each := func(figure func(sample) float64) []float64 {
			var all []float64
			for _, s := range samples[t.Path] {
				all = append(all, figure(s))
			}
			return all
		}
		of := func(figure func(sample) float64) float64 { return roundTenth(median(each(figure))) }
		row := ServiceRow{Path: t.Path,
			ConnectionsPerSecond: of(func(s sample) float64 { return s.Connections }),
			CPUUsPerConnection:   of(func(s sample) float64 { return s.CPU }),
			ConnectP50Us:         of(func(s sample) float64 { return s.ConnectP50 }),
			ConnectP99Us:         of(func(s sample) float64 { return s.ConnectP99 }),
			RoundTripP50Us:       of(func(s sample) float64 { return s.RoundTripP50 }),
			RoundTripP99Us:       of(func(s sample) float64 { return s.RoundTripP99 }),
			ThroughputMbps:       of(func(s sample) float64 { return s.Throughput })}
		row.SpreadPercent = spread(each(func(s sample) float64 { return s.Connections }))
		rows[t.Path] = row
		r.Rows = append(r.Rows, row)
	}
	direct := rows[pathDirect]
	for _, path := range []string{pathClusterIP, pathNodePort} {
		r.Ratios[path+"/direct connectionsPerSecond"] = ratio(rows[path].ConnectionsPerSecond, direct.ConnectionsPerSecond)
		r.Ratios[path+"/direct roundTripP50Us"] = ratio(rows[path].RoundTripP50Us, direct.RoundTripP50Us)
		r.Ratios[path+"/direct throughputMbps"] = ratio(rows[path].ThroughputMbps, direct.ThroughputMbps)
	}
	return r
}

// serviceTargets starts the peer, its Service and the load pod, and returns the ways to the peer once both pods are ready.
func (b *Bench) serviceTargets(ctx context.Context, ns string) ([]Target, error) {
	b.progress("starting a peer, its Service and a load pod in namespace %s", ns)
	for _, p := range []*corev1.Pod{b.pod("peer", "bench", "peer"), b.pod("load", "bench", "idle")} {
		if _, err := b.Client.CoreV1().Pods(ns).Create(ctx, p, metav1.CreateOptions{}); err != nil {
			return nil, fmt.Errorf("create pod %s: %w", p.Name, err)
		}
	}
	svc, err := b.Client.CoreV1().Services(ns).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "peer"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "peer"}, Ports: []corev1.ServicePort{
			{Name: "echo", Port: EchoPort, TargetPort: intstr.FromInt32(EchoPort)},
			{Name: "sink", Port: SinkPort, TargetPort: intstr.FromInt32(SinkPort)},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create service: %w", err)
	}
	if _, err := b.awaitReady(ctx, ns, "load"); err != nil {
		return nil, err
	}
	peer, err := b.awaitReady(ctx, ns, "peer")
	if err != nil {
		return nil, err
	}
	var addrs [3]netip.Addr
	for i, s := range []string{peer.Status.PodIP, svc.Spec.ClusterIP, peer.Status.HostIP} {
		if addrs[i], err = netip.ParseAddr(s); err != nil {
			return nil, fmt.Errorf("address of the peer: %w", err)
		}
	}
	at := func(path string, addr netip.Addr, echo, sink int32) Target {
		return Target{path, netip.AddrPortFrom(addr, uint16(echo)), netip.AddrPortFrom(addr, uint16(sink))}
	}
	return []Target{
		at(pathDirect, addrs[0], EchoPort, SinkPort),
		at(pathClusterIP, addrs[1], EchoPort, SinkPort),
		at(pathNodePort, addrs[2], svc.Spec.Ports[0].NodePort, svc.Spec.Ports[1].NodePort),
	}, nil
}
