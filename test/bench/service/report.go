package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// report prints the medians of one number of Services.
func report(out io.Writer, rounds, count int, paths []path, samples [][]sample, failed []int, servers []*programming) error {
	fmt.Fprintf(out, "\n%d Services; medians of %d rounds, ± half the distance between the quartiles; FAILED: rounds with a connection that failed, left out\n", count, rounds)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PATH\tCONN/S\t\tOF FIRST\tCONNECT P50\tP99\tROUND TRIP\tOF FIRST\tGBIT/S\tCPU/CONN\tFAILED")
	first := figures(samples[0])
	for i, p := range paths {
		f := figures(samples[i])
		fmt.Fprintf(w, "%s\t%.0f\t±%.1f%%\t%.3f\t%.1f us\t%.1f us\t%.1f us\t%.3f\t%.1f\t%.1f us\t%d\n", p.name,
			f.rate.median, f.rate.spread(), f.rate.median/first.rate.median, f.p50.median, f.p99.median,
			f.trip.median, f.trip.median/first.trip.median, f.gbit.median/1000, f.cpu.median, failed[i])
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "SERVER\tCOLD\tONE ENDPOINT P50\tMAX\tPROCESS\tMAPS")
	for _, s := range servers {
		slices.Sort(s.changes)
		fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%.0f MiB\t%.0f MiB\n", s.node.kind, s.cold.Round(time.Millisecond),
			s.changes[len(s.changes)/2].Round(10*time.Microsecond), s.changes[len(s.changes)-1].Round(10*time.Microsecond), s.process, s.maps)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	rates := map[string]float64{}
	for i, p := range paths {
		rates[p.name] = figures(samples[i]).rate.median
	}
	for _, c := range comparisons {
		if rates[c.of] > 0 && rates[c.to] > 0 {
			fmt.Fprintf(out, "%s / %s: %.3f\n", c.of, c.to, rates[c.of]/rates[c.to])
		}
	}
	return nil
}

// comparisons are the ratios of connections a second that are printed.
var comparisons = []struct{ of, to string }{
	{"skep ClusterIP, socket", "skep direct"},
	{"skep ClusterIP, socket", "nftables ClusterIP"},
	{"skep ClusterIP, socket", "iptables ClusterIP"},
	{"skep ClusterIP", "nftables ClusterIP"},
	{"skep-xdp NodePort", "skep NodePort"},
	{"skep-xdp NodePort", "nftables NodePort"},
	{"skep NodePort", "nftables NodePort"},
	{"skep NodePort", "iptables NodePort"},
}

// figure is one quantity over the rounds.
type figure struct{ low, median, high float64 }

// spread is half the distance between the quartiles, in percent of the median.
func (f figure) spread() float64 { return 50 * (f.high - f.low) / f.median }

func over(samples []sample, of func(sample) float64) figure {
	var all []float64
	for _, s := range samples {
		all = append(all, of(s))
	}
	slices.Sort(all)
	at := func(part float64) float64 { return all[int(part*float64(len(all)-1)+0.5)] }
	return figure{at(0.25), at(0.5), at(0.75)}
}

type row struct{ rate, p50, p99, trip, gbit, cpu figure }

func figures(s []sample) row {
	return row{
		rate: over(s, func(s sample) float64 { return s.Connections }),
		p50:  over(s, func(s sample) float64 { return s.ConnectP50 }),
		p99:  over(s, func(s sample) float64 { return s.ConnectP99 }),
		trip: over(s, func(s sample) float64 { return s.RoundTrip }),
		gbit: over(s, func(s sample) float64 { return s.Throughput }),
		cpu:  over(s, func(s sample) float64 { return s.CPU }),
	}
}
