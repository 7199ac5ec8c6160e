package server

import (
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skep-io/skep/dns/wire"
)

// proto and zoneKind are labels of the metrics.
type (
	proto    uint8
	zoneKind uint8
)

const (
	protoUDP proto = iota
	protoTCP
	protos
)

const (
	zoneOther zoneKind = iota
	zoneCluster
	zones
)

var protoNames = [protos]string{"udp", "tcp"}

// countedTypes are the types with a count of their own; all others share one.
var countedTypes = [...]uint16{dns.TypeNone, dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeTXT, dns.TypeCNAME, dns.TypeNS, dns.TypeSOA, dns.TypeMX, dns.TypeHTTPS, dns.TypeANY}

const (
	maxRcode = 17
	// buckets of the duration are powers of two from firstBucket on.
	buckets     = 16
	firstBucket = 2 * time.Microsecond
	// ring is how many samples each loop keeps for `skep dns top`, one query out of sampleEvery.
	ring, sampleEvery = 1024, 16
)

// stats are counters of one loop, so that no two of them write to the same memory; the collector adds them up. What is not a
// loop shares one.
type stats struct {
	requests  [zones][protos][2][len(countedTypes)]atomic.Uint64
	responses [zones][sources][maxRcode]atomic.Uint64
	durations [zones][buckets + 1]atomic.Uint64
	seconds   [zones]atomic.Uint64 // ns
	limited   atomic.Uint64

	seen    atomic.Uint32
	mu      sync.Mutex
	samples [ring]sample
	next    int
}

// sample is one query.
type sample struct {
	name   [96]byte
	length uint8
	qtype  uint16
	rcode  uint8
	from   source
	client netip.Addr
}

func typeIndex(t uint16) int {
	for i, c := range countedTypes[1:] {
		if c == t {
			return i + 1
		}
	}
	return 0
}

func family(client netip.Addr) int {
	if client.Is4() {
		return 0
	}
	return 1
}

// count takes the answer that a worker has just made.
func (st *stats) count(w *worker, client netip.Addr) {
	st.add(w.proto, &w.q, client, w.from, w.zone, w.r.Rcode)
}

func (st *stats) add(p proto, q *wire.Query, client netip.Addr, from source, zone zoneKind, rcode int) {
	st.requests[zone][p][family(client)][typeIndex(q.Type)].Add(1)
	st.responses[zone][from][min(rcode, maxRcode-1)].Add(1)
	if st.seen.Add(1)%sampleEvery != 0 {
		return
	}
	st.mu.Lock()
	s := &st.samples[st.next%ring]
	st.next++
	s.length = uint8(copy(s.name[:], q.Name()))
	s.qtype, s.rcode, s.from, s.client = q.Type, uint8(rcode), from, client
	st.mu.Unlock()
}

// took records the time of n answers that were made together.
func (st *stats) took(zone zoneKind, d time.Duration, n int) {
	i := 0
	for limit := firstBucket; i < buckets && d > limit; limit *= 2 {
		i++
	}
	st.durations[zone][i].Add(uint64(n))
	st.seconds[zone].Add(uint64(d) * uint64(n))
}

// metrics is the collector of all loops.
type metrics struct {
	s          *Server
	mu         sync.Mutex
	loops      []*stats
	slow       *stats // of TCP and of what waits
	shed       atomic.Uint64
	prefetches atomic.Uint64
	sampling   atomic.Uint32
}

func newMetrics(s *Server) *metrics {
	m := &metrics{s: s}
	m.slow = m.newStats()
	return m
}

func (m *metrics) newStats() *stats {
	st := &stats{}
	m.mu.Lock()
	m.loops = append(m.loops, st)
	m.mu.Unlock()
	return st
}

func (st *stats) absorb(other *stats) {
	for z := range zones {
		for p := range protos {
			for f := range 2 {
				for t := range countedTypes {
					st.requests[z][p][f][t].Add(other.requests[z][p][f][t].Load())
				}
			}
		}
		for from := range sources {
			for r := range maxRcode {
				st.responses[z][from][r].Add(other.responses[z][from][r].Load())
			}
		}
		for b := range buckets + 1 {
			st.durations[z][b].Add(other.durations[z][b].Load())
		}
		st.seconds[z].Add(other.seconds[z].Load())
	}
	st.limited.Add(other.limited.Load())
}

// countSlow takes an answer that somebody waited for.
func (m *metrics) countSlow(p proto, q *wire.Query, client netip.Addr, res resolution, d time.Duration) {
	rcode := wire.ServFail
	if len(res.msg) > 3 {
		rcode = int(res.msg[3] & 0xf)
	}
	m.slow.add(p, q, client, res.from, res.zone, rcode)
	m.slow.took(res.zone, d, 1)
}

// sampled is true for one call out of every.
func (m *metrics) sampled(every uint32) bool { return m.sampling.Add(1)%every == 0 }

// totals adds up all loops.
func (m *metrics) totals() *stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	sum := &stats{}
	for _, st := range m.loops {
		sum.absorb(st)
	}
	return sum
}

var (
	requestsDesc  = prometheus.NewDesc("coredns_dns_requests_total", "DNS queries by zone, transport, family and type.", []string{"server", "zone", "view", "proto", "family", "type"}, nil)
	responsesDesc = prometheus.NewDesc("coredns_dns_responses_total", "DNS answers by zone, code and source (plugin).", []string{"server", "zone", "view", "rcode", "plugin"}, nil)
	durationDesc  = prometheus.NewDesc("coredns_dns_request_duration_seconds", "Time to answer, batches counted as a whole.", []string{"server", "zone", "view"}, nil)
	entriesDesc   = prometheus.NewDesc("coredns_cache_entries", "Upstream answers kept.", nil, nil)
	hitsDesc      = prometheus.NewDesc("coredns_cache_hits_total", "Answers from the cache.", []string{"type"}, nil)
	missesDesc    = prometheus.NewDesc("coredns_cache_misses_total", "Answers that an upstream server had to give.", nil, nil)
	staleDesc     = prometheus.NewDesc("coredns_cache_served_stale_total", "Stale answers given because no upstream server answered.", nil, nil)
	evictDesc     = prometheus.NewDesc("coredns_cache_evictions_total", "Answers that went from the cache to make room.", nil, nil)
	prefetchDesc  = prometheus.NewDesc("coredns_cache_prefetch_total", "Answers asked for again before their end.", nil, nil)
	limitedDesc   = prometheus.NewDesc("skep_dns_rate_limited_total", "Queries dropped by the rate limit.", nil, nil)
	shedDesc      = prometheus.NewDesc("skep_dns_shed_total", "Queries refused because too many waited for upstream servers.", nil, nil)
	readyDesc     = prometheus.NewDesc("skep_dns_ready", "1 when the server knows the whole cluster.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requestsDesc, responsesDesc, durationDesc, entriesDesc, hitsDesc, missesDesc, staleDesc, evictDesc, prefetchDesc, limitedDesc, shedDesc, readyDesc, leftDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	sum, server, work := m.totals(), m.name(), m.s.kernelWork()
	sum.addKernel(work)
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for z, zone := range [zones]string{".", m.s.cfg.Zone.Origin()} {
		for p, protoName := range protoNames {
			for f, familyName := range [2]string{"1", "2"} {
				for t := range countedTypes {
					if v := sum.requests[z][p][f][t].Load(); v > 0 {
						counter(requestsDesc, v, server, zone, "", protoName, familyName, typeName(t))
					}
				}
			}
		}
		for from := range sources {
			for r := range maxRcode {
				if v := sum.responses[z][from][r].Load(); v > 0 {
					counter(responsesDesc, v, server, zone, "", rcodeName(r), sourceNames[from])
				}
			}
		}
		ch <- sum.histogram(zoneKind(z), server, zone)
	}
	for reason, v := range work.Left {
		counter(leftDesc, v, reason)
	}
	counter(hitsDesc, sum.from(fromCache)+sum.from(fromStale), "success")
	counter(missesDesc, sum.from(fromForward))
	counter(staleDesc, sum.from(fromStale))
	counter(evictDesc, m.s.cache.Evicted())
	counter(prefetchDesc, m.prefetches.Load())
	counter(limitedDesc, sum.limited.Load())
	counter(shedDesc, m.shed.Load())
	ch <- prometheus.MustNewConstMetric(entriesDesc, prometheus.GaugeValue, float64(m.s.cache.Len()))
	ready := 0.0
	if m.s.Ready() {
		ready = 1
	}
	ch <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, ready)
}

func (m *metrics) name() string {
	if len(m.s.cfg.Listen) == 0 {
		return ""
	}
	return "dns://" + m.s.cfg.Listen[0].String()
}

func (st *stats) from(of source) (n uint64) {
	for z := range zones {
		for r := range maxRcode {
			n += st.responses[z][of][r].Load()
		}
	}
	return n
}

func (st *stats) histogram(z zoneKind, labels ...string) prometheus.Metric {
	counts, total := map[float64]uint64{}, uint64(0)
	limit := firstBucket
	for b := range buckets {
		total += st.durations[z][b].Load()
		counts[limit.Seconds()] = total
		limit *= 2
	}
	total += st.durations[z][buckets].Load()
	return prometheus.MustNewConstHistogram(durationDesc, total, float64(st.seconds[z].Load())/1e9, counts, append(labels, "")...)
}

func typeName(i int) string {
	if i == 0 {
		return "other"
	}
	return dns.TypeToString[countedTypes[i]]
}

func rcodeName(r int) string {
	if r == wire.BadVers {
		return "BADVERS"
	}
	if name, ok := dns.RcodeToString[r]; ok {
		return name
	}
	return strconv.Itoa(r)
}
