package observe

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Kind is what a change of the API is about.
type Kind int

// The kinds of changes that are counted.
const (
	ServiceChange Kind = iota
	EndpointsChange
	kinds
)

// Programming measures how the kernel follows the API. It has the names of kube-proxy where it means the same. It is safe for
// concurrent use.
type Programming struct {
	start time.Time

	batch, network, rules, policies prometheus.Histogram
	synced, queued, ringless        prometheus.Gauge
	changes                         [kinds]prometheus.Counter
	waiting                         [kinds]prometheus.Gauge

	mu sync.Mutex
	// pending are the changes that no round has taken, triggers when what led to them happened.
	pending  [kinds]int
	triggers []time.Time
}

// NewProgramming returns an empty measure. What happened before start is not this process's delay.
func NewProgramming(start time.Time) *Programming {
	histogram := func(name, help string, first float64, buckets int) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 2, buckets),
		})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	p := &Programming{
		start: start,
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "skep_datapath_programming_seconds",
			Help:    "Time from the first event of a batch of Service changes to its last map write.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		}),
		policies: histogram("skep_datapath_policy_programming_seconds", "Time from the first event of a batch of changes of policies, namespaces and pods to its last map write.", 0.0001, 16),
		network:  histogram("kubeproxy_network_programming_duration_seconds", "Time from the change of a pod or Service that changed its endpoints until the kernel has them.", 0.001, 18),
		rules:    histogram("kubeproxy_sync_proxy_rules_duration_seconds", "Time that writing a batch of Service changes took.", 0.00001, 20),
		synced:   gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the kernel last had all Services as the API has them."),
		queued:   gauge("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When the last change of a Service or its endpoints came."),
		ringless: gauge("skep_datapath_services_without_ring", "Services for which there was no room for a ring: clients outside are spread at random."),
	}
	for kind, name := range map[Kind]string{ServiceChange: "service", EndpointsChange: "endpoint"} {
		p.changes[kind] = prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubeproxy_sync_proxy_rules_" + name + "_changes_total", Help: "Changes of that kind that came from the API.",
		})
		p.waiting[kind] = gauge("kubeproxy_sync_proxy_rules_"+name+"_changes_pending", "Changes of that kind that the kernel does not have yet.")
	}
	return p
}

func (p *Programming) collectors() []prometheus.Collector {
	all := []prometheus.Collector{p.batch, p.policies, p.network, p.rules, p.synced, p.queued, p.ringless}
	for kind := range kinds {
		all = append(all, p.changes[kind], p.waiting[kind])
	}
	return all
}

// Changed notes a change of the API, once it is sure to be in the next round. triggered is when what led to it happened; zero: not known.
func (p *Programming) Changed(kind Kind, triggered time.Time) {
	p.changes[kind].Inc()
	p.waiting[kind].Inc()
	p.queued.SetToCurrentTime()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending[kind]++
	if triggered.After(p.start) {
		p.triggers = append(p.triggers, triggered)
	}
}

// Policies notes a batch of changes of what policies depend on.
func (p *Programming) Policies(d time.Duration) { p.policies.Observe(d.Seconds()) }

// Ringless notes how many services have found no room for a ring.
func (p *Programming) Ringless(n int) { p.ringless.Set(float64(n)) }

// Round is one go at the kernel.
type Round struct {
	p        *Programming
	began    time.Time
	pending  [kinds]int
	triggers []time.Time
}

// Begin takes the changes that were noted.
func (p *Programming) Begin() Round {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := Round{p: p, began: time.Now(), pending: p.pending, triggers: p.triggers}
	p.pending, p.triggers = [kinds]int{}, nil
	return r
}

// Done says that the kernel has them all. since is when the first one came; zero: there was none.
func (r Round) Done(since time.Time) {
	now := time.Now()
	for _, t := range r.triggers {
		r.p.network.Observe(now.Sub(t).Seconds())
	}
	for kind, n := range r.pending {
		r.p.waiting[kind].Sub(float64(n))
	}
	r.p.synced.SetToCurrentTime()
	if !since.IsZero() {
		r.p.rules.Observe(now.Sub(r.began).Seconds())
		r.p.batch.Observe(now.Sub(since).Seconds())
	}
}

// Failed gives them back for the next round.
func (r Round) Failed() {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	for kind, n := range r.pending {
		r.p.pending[kind] += n
	}
	r.p.triggers = append(r.p.triggers, r.triggers...)
}
