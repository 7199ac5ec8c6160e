package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"
)

// report prints the medians of one number of Services.
func report(out io.Writer, rounds, count int, paths []path, samples [][]sample, failed []int, servers []*programming) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "\n%d Services\n", count)
	if rounds > 0 {
		reportPaths(w, rounds, paths, samples, failed)
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
	for _, c := range comparisons {
		of, to := slices.IndexFunc(paths, c.isOf), slices.IndexFunc(paths, c.isTo)
		if of < 0 || to < 0 || rounds == 0 {
			continue
		}
		r := ratio(samples[of], samples[to])
		fmt.Fprintf(out, "%s / %s: %.3f (%.3f to %.3f)\n", c.of, c.to, r.median, r.low, r.high)
	}
	return nil
}

// reportPaths prints a line for each path.
func reportPaths(w io.Writer, rounds int, paths []path, samples [][]sample, failed []int) {
	fmt.Fprintf(w, "medians of %d rounds, ± half the distance between the quartiles; FAILED: rounds with a connection that failed, left out\n", rounds)
	fmt.Fprintln(w, "PATH\tCONN/S\t\tOF FIRST\tCONNECT P50\tP99\tROUND TRIP\tOF FIRST\tGBIT/S\tCPU/CONN\tFAILED")
	first := figures(samples[0])
	for i, p := range paths {
		f := figures(samples[i])
		fmt.Fprintf(w, "%s\t%.0f\t±%.1f%%\t%.3f\t%.1f us\t%.1f us\t%.1f us\t%.3f\t%.1f\t%.1f us\t%d\n", p.name,
			f.rate.median, f.rate.spread(), f.rate.median/first.rate.median, f.p50.median, f.p99.median,
			f.trip.median, f.trip.median/first.trip.median, f.gbit.median/1000, f.cpu.median, failed[i])
	}
}

// ratio is the one of two paths' connections a second: the median of the rounds' ratios, in which the machine was in about the same
// state, and the two between which it is with a probability of 95 % (by the ranks, see W. J. Conover, Practical Nonparametric Statistics, 3.2).
func ratio(of, to []sample) figure {
	rates := map[int]float64{}
	for _, s := range to {
		rates[s.round] = s.Connections
	}
	var all []float64
	for _, s := range of {
		if rate, both := rates[s.round]; both {
			all = append(all, s.Connections/rate)
		}
	}
	if len(all) == 0 {
		return figure{}
	}
	slices.Sort(all)
	n := float64(len(all))
	reach := 0.98 * math.Sqrt(n)
	at := func(rank float64) float64 { return all[int(min(max(math.Round(rank), 0), n-1))] }
	return figure{at(n/2 - reach - 0.5), all[len(all)/2], at(n/2 + reach - 0.5)}
}

// comparisons are the ratios of connections a second that are printed.
var comparisons = []comparison{
	{"skep ClusterIP, socket", "skep direct"},
	{"skep ClusterIP, socket", "routed direct"},
	{"skep direct", "routed direct"},
	{"skep ClusterIP", "routed direct"},
	{"skep ClusterIP, socket", "nftables ClusterIP"},
	{"skep ClusterIP, socket", "iptables ClusterIP"},
	{"skep ClusterIP", "nftables ClusterIP"},
	{"skep-xdp NodePort", "skep NodePort"},
	{"skep-xdp NodePort", "nftables NodePort"},
	{"skep NodePort", "nftables NodePort"},
	{"skep NodePort", "iptables NodePort"},
}

type comparison struct{ of, to string }

func (c comparison) isOf(p path) bool { return p.name == c.of }
func (c comparison) isTo(p path) bool { return p.name == c.to }

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
