package forward

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what groups do, named as CoreDNS names the same.
type Metrics struct {
	requests, responses, probeFailures *prometheus.CounterVec
	duration                           *prometheus.HistogramVec
	rejects, broken                    prometheus.Counter
}

// NewMetrics returns counters that groups may share.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "coredns_forward_" + name, Help: help}, labels)
	}
	return &Metrics{
		requests:      counter("requests_total", "Queries sent to each upstream server.", "to"),
		responses:     counter("responses_total", "Answers of each upstream server.", "to", "rcode"),
		probeFailures: counter("healthcheck_failures_total", "Probes that a failed upstream server did not answer.", "to"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "coredns_forward_request_duration_seconds",
			Help: "Time of each answered upstream query.", Buckets: prometheus.ExponentialBuckets(0.00025, 4, 8)}, []string{"to", "rcode"}),
		rejects: prometheus.NewCounter(prometheus.CounterOpts{Name: "coredns_forward_max_concurrent_rejects_total", Help: "Look-ups refused because too many were in flight."}),
		broken:  prometheus.NewCounter(prometheus.CounterOpts{Name: "coredns_forward_healthcheck_broken_total", Help: "Times that an upstream server was given up."}),
	}
}

// Collectors are the metrics.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.responses, m.probeFailures, m.duration, m.rejects, m.broken}
}
