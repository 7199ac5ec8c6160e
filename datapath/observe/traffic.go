package observe

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skep-io/skep/datapath/abi"
	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/desired"
)

// ServicePort is a port of a Service, of both families and whatever its traffic policy.
type ServicePort struct{ Namespace, Service, Port string }

// traffic reads what Services have carried when it is scraped. A Service that nobody has used is not listed, and one that is gone no
// more.
type traffic struct {
	maps *bpfmap.Maps
	// swept is what the last sweep of the flow table found, name whose an id is.
	swept func() map[uint32]abi.Traffic
	name  func(uint32) (desired.PortName, bool)

	connections, refused, bytes *prometheus.Desc

	mu sync.Mutex
	// last is what was reported last: counters do not fall, though the sweeps and the programs count at different times.
	last map[ServicePort]abi.Traffic
}

func newTraffic(s Sources) *traffic {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("skep_service_"+name, help, append([]string{"namespace", "service", "port"}, labels...), nil)
	}
	return &traffic{
		maps: s.Maps, swept: s.Traffic, name: s.Name,
		connections: desc("connections_total", "Connections that got a backend, by a socket of this node or packet by packet; of UDP, what a socket sends to one Service, or a flow.", "path"),
		refused:     desc("refused_total", "Connections that found no backend."),
		bytes:       desc("bytes_total", "Path socket: payload of TCP connections that were closed. Path packet: bytes of frames.", "path", "direction"),
	}
}

// Describe implements [prometheus.Collector].
func (c *traffic) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.connections, c.refused, c.bytes} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *traffic) Collect(ch chan<- prometheus.Metric) {
	all, err := c.read()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.connections, err)
		return
	}
	for p, t := range all {
		counter := func(d *prometheus.Desc, value uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), append([]string{p.Namespace, p.Service, p.Port}, labels...)...)
		}
		counter(c.connections, t.Sockets, "socket")
		counter(c.connections, t.Flows, "packet")
		counter(c.refused, t.Refused)
		for way, direction := range map[int]string{int(abi.TrafficThere): "to_backend", int(abi.TrafficBack): "from_backend"} {
			counter(c.bytes, t.Payload[way], "socket", direction)
			counter(c.bytes, t.Bytes[way], "packet", direction)
		}
	}
}

// read returns what each port of a Service has carried.
func (c *traffic) read() (map[ServicePort]abi.Traffic, error) {
	kernel, err := c.maps.Traffic()
	if err != nil {
		return nil, err
	}
	swept := c.swept()
	now := map[ServicePort]abi.Traffic{}
	for id, t := range kernel {
		name, ok := c.name(id)
		if !ok {
			continue
		}
		// A port of both families, or with a traffic policy, has several.
		p := ServicePort{name.Namespace, name.Service, name.Port}
		now[p] = now[p].Add(t.Max(swept[id]))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, t := range now {
		now[p] = t.Max(c.last[p])
	}
	c.last = now
	return now, nil
}
