package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/skep-io/skep/datapath"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/observe"
)

// observeOptions are the flags of skep net observe.
type observeOptions struct {
	filter        observe.Filter
	sample        uint32
	last, count   int
	period        time.Duration
	output        string
	namesInterval time.Duration
}

func netObserveCommand(n *netOptions) *cobra.Command {
	o := observeOptions{namesInterval: time.Second}
	cmd := &cobra.Command{
		Use:   "observe",
		Short: "Watch flows of this node: who talks to whom, what is dropped and why",
		Long: `Watch flows of this node as they begin, end, are dropped or denied, with the names of pods and Services. --sample also shows
packets of flows that go on. The programs make events only while this runs, and for one at a time; nothing stays on when it is killed.`,
		Example: `  skep net observe
  skep net observe --verdict denied
  skep net observe --pod default/web --protocol tcp -o wide
  skep net observe --service web --sample 100 -o json
  skep net observe --from 10.244.1.0/24 --for 10s --last 20`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.output = n.output
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return o.run(ctx, n, os.Stdout)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.filter.Pod, "pod", "", "only flows from or to this pod: namespace/name or name")
	f.StringVar(&o.filter.Service, "service", "", "only flows to this Service: namespace/name or name")
	f.StringVar(&o.filter.Verdict, "verdict", "", "only allowed, denied (by policies) or dropped ones")
	f.StringVar(&o.filter.Reason, "reason", "", "only drops for this reason, as `skep net drops` names it")
	f.StringVar(&o.filter.From, "from", "", "only packets from this address, prefix or pod")
	f.StringVar(&o.filter.To, "to", "", "only packets to this address, prefix or pod")
	f.StringVar(&o.filter.Protocol, "protocol", "", "only tcp, udp, icmp or icmpv6")
	f.Uint32Var(&o.sample, "sample", 0, "show one in so many packets of known flows too; 0: none")
	f.DurationVar(&o.period, "for", 0, "end after this time; default: go on")
	f.IntVar(&o.count, "count", 0, "end after so many events; default: go on")
	f.IntVar(&o.last, "last", 0, "watch for the time of --for (default 10s), then show the last so many events")
	return cmd
}

func (o *observeOptions) run(ctx context.Context, n *netOptions, out io.Writer) error {
	if err := o.filter.Validate(); err != nil {
		return err
	}
	print, err := o.printer(out)
	if err != nil {
		return err
	}
	dir := datapath.MapsDir(n.bpf)
	m, err := bpfmap.Open(dir)
	if err != nil {
		return fmt.Errorf("open the network's maps (is a node up? start it with `skep up`): %w", err)
	}
	defer m.Close()
	w, err := observe.OpenWatch(dir, o.sample)
	if err != nil {
		return err
	}
	defer w.Close()
	if o.last > 0 && o.period == 0 {
		o.period = 10 * time.Second
	}
	if o.period > 0 {
		w.SetDeadline(time.Now().Add(o.period))
	}
	// A deadline in the past wakes the reader.
	defer context.AfterFunc(ctx, func() { w.SetDeadline(time.Now()) })()
	kept, err := o.follow(ctx, w, m, n, print)
	for _, e := range kept {
		err = errors.Join(err, print(e))
	}
	if lost, lostErr := w.Lost(); lostErr == nil && lost > 0 {
		fmt.Fprintf(os.Stderr, "%d events found no room and are not shown\n", lost)
	}
	return err
}

// printer returns what prints one event.
func (o *observeOptions) printer(out io.Writer) (func(observe.Event) error, error) {
	switch o.output {
	case "json":
		enc := json.NewEncoder(out)
		return func(e observe.Event) error { return enc.Encode(e) }, nil
	case "", "wide":
		return func(e observe.Event) error {
			_, err := fmt.Fprintln(out, e.Line(o.output == "wide"))
			return err
		}, nil
	}
	return nil, fmt.Errorf("--output %q: json and wide are known", o.output)
}

// follow prints events until the deadline or the count, or with --last returns the last ones.
func (o *observeOptions) follow(ctx context.Context, w *observe.Watch, m *bpfmap.Maps, n *netOptions, print func(observe.Event) error) ([]observe.Event, error) {
	teller, err := observe.NewTeller()
	if err != nil {
		return nil, err
	}
	if err := teller.SetNames(m, n.names(ctx)); err != nil {
		return nil, err
	}
	named := time.Now()
	var kept []observe.Event
	for shown := 0; o.count == 0 || shown < o.count; {
		raw, err := w.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return kept, nil
		}
		if err != nil {
			return kept, err
		}
		// Names change seldom: they are asked for anew where one is missing, but not at each event.
		if !teller.Knows(raw) && time.Since(named) > o.namesInterval {
			named = time.Now()
			if err := teller.SetNames(m, n.names(ctx)); err != nil {
				return kept, err
			}
		}
		e := teller.Tell(raw)
		if !o.filter.Match(e) {
			continue
		}
		shown++
		if o.last == 0 {
			if err := print(e); err != nil {
				return nil, err
			}
			continue
		}
		if kept = append(kept, e); len(kept) > o.last {
			kept = kept[1:]
		}
	}
	return kept, nil
}
