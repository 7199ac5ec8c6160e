package observe

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// Sources are where the metrics of the data path come from. All functions are safe for concurrent use.
type Sources struct {
	Maps *bpfmap.Maps
	// Flows returns how many flows there are, which would be too many to count at each scrape; Traffic what each service had carried
	// when they were counted.
	Flows   func() int
	Traffic func() map[uint32]abi.Traffic
	// Name returns whose the id of a service is.
	Name func(uint32) (desired.PortName, bool)
	// Resets returns how many sockets were reset, and how many could not be.
	Resets func() (done, failed uint64)
	// Policies returns how many sets and identities policies have led to.
	Policies    func() (sets, identities int)
	Programming *Programming
}

// Register adds the metrics of the data path to r: see datapath/README.md.
func Register(r prometheus.Registerer, s Sources) error {
	for _, c := range append(s.Programming.collectors(), newCollector(s), newTraffic(s)) {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// rowsKept is how long a count of the maps' rows serves: it reads them all.
const rowsKept = 30 * time.Second

// collector reads the kernel's tables when it is scraped.
type collector struct {
	sources Sources

	packets, bytes, rows, capacity, resets, stuck, lost, sets, identities *prometheus.Desc

	mu      sync.Mutex
	counts  map[string]int
	counted time.Time
}

func newCollector(s Sources) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("skep_datapath_"+name, help, labels, nil)
	}
	return &collector{
		sources:    s,
		packets:    desc("drops_total", "Packets and connects refused.", "reason", "place"),
		bytes:      desc("drop_bytes_total", "Bytes of the packets refused.", "reason", "place"),
		rows:       desc("map_rows", "Rows in a map.", "map"),
		capacity:   desc("map_capacity_rows", "Most rows that a map takes.", "map"),
		resets:     desc("sockets_reset_total", "Connected sockets that were reset because their backend is gone."),
		stuck:      desc("sockets_stuck_total", "Connected sockets whose backend is gone that could not be reset."),
		lost:       desc("events_lost_total", "Events on flows that found no room, as they were made faster than they were read."),
		sets:       desc("policy_sets", "Sets of peers and ports that policies allow to pods of this node."),
		identities: desc("policy_identities", "Identities of pods that policies tell apart."),
	}
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.packets, c.bytes, c.rows, c.capacity, c.resets, c.stuck, c.lost, c.sets, c.identities} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	gauge := func(d *prometheus.Desc, value int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	drops, err := c.sources.Maps.Drops()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.packets, err)
	}
	for _, d := range drops {
		counter(c.packets, d.Packets, d.Reason, d.Place)
		counter(c.bytes, d.Bytes, d.Reason, d.Place)
	}
	rows, err := c.count()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.rows, err)
	}
	for name, n := range rows {
		gauge(c.rows, n, name)
		gauge(c.capacity, int(c.sources.Maps.Capacity(name)), name)
	}
	gauge(c.rows, c.sources.Flows(), abi.MapConntrack)
	gauge(c.capacity, int(c.sources.Maps.Capacity(abi.MapConntrack)), abi.MapConntrack)
	lost, err := c.sources.Maps.EventsLost()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.lost, err)
	} else {
		counter(c.lost, lost)
	}
	reset, stuck := c.sources.Resets()
	counter(c.resets, reset)
	counter(c.stuck, stuck)
	sets, identities := c.sources.Policies()
	gauge(c.sets, sets)
	gauge(c.identities, identities)
}

// count returns the rows of the maps, as they were within the last rowsKept.
func (c *collector) count() (map[string]int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts != nil && time.Since(c.counted) < rowsKept {
		return c.counts, nil
	}
	rows, err := c.sources.Maps.Rows()
	if err != nil {
		return nil, err
	}
	c.counts, c.counted = rows, time.Now()
	return rows, nil
}
