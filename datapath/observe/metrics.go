package observe

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
)

// Latency measures how long the kernel lags behind the API.
type Latency struct{ histogram prometheus.Histogram }

// NewLatency returns an empty measure.
func NewLatency() *Latency {
	return &Latency{prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "skep_datapath_programming_seconds",
		Help:    "Time from the first event of a batch of Service changes to its last map write.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
	})}
}

// Observe notes one batch.
func (l *Latency) Observe(d time.Duration) { l.histogram.Observe(d.Seconds()) }

// Register adds the metrics of the data path to r: drops, the rows of each map and how many it takes, and latency. flows
// returns how many flows there are, which would be too many to count at each scrape.
func Register(r prometheus.Registerer, m *bpfmap.Maps, flows func() int, latency *Latency) error {
	for _, c := range []prometheus.Collector{newCollector(m, flows), latency.histogram} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// collector reads the kernel's tables when it is scraped.
type collector struct {
	maps  *bpfmap.Maps
	flows func() int

	packets, bytes, rows, capacity *prometheus.Desc
}

func newCollector(m *bpfmap.Maps, flows func() int) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("skep_datapath_"+name, help, labels, nil)
	}
	return &collector{
		maps: m, flows: flows,
		packets:  desc("drops_total", "Packets and connects refused.", "reason", "place"),
		bytes:    desc("drop_bytes_total", "Bytes of the packets refused.", "reason", "place"),
		rows:     desc("map_rows", "Rows in a map.", "map"),
		capacity: desc("map_capacity_rows", "Most rows that a map takes.", "map"),
	}
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.packets, c.bytes, c.rows, c.capacity} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	drops, err := c.maps.Drops()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.packets, err)
	}
	for _, d := range drops {
		ch <- prometheus.MustNewConstMetric(c.packets, prometheus.CounterValue, float64(d.Packets), d.Reason, d.Place)
		ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.CounterValue, float64(d.Bytes), d.Reason, d.Place)
	}
	rows, err := c.maps.Rows()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.rows, err)
	}
	if rows == nil {
		rows = map[string]int{}
	}
	rows[abi.MapConntrack] = c.flows()
	for name, n := range rows {
		ch <- prometheus.MustNewConstMetric(c.rows, prometheus.GaugeValue, float64(n), name)
		ch <- prometheus.MustNewConstMetric(c.capacity, prometheus.GaugeValue, float64(c.maps.Capacity(name)), name)
	}
}
