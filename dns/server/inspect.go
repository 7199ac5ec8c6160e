package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/miekg/dns"

	"github.com/skep-io/skep/dns/forward"
	"github.com/skep-io/skep/dns/wire"
)

// Explanation is what the server answers to one question, and why.
type Explanation struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Rcode   string   `json:"rcode"`
	Answers []string `json:"answers,omitempty"`
	// From is who answered, Why says it to people.
	From string  `json:"from"`
	Why  string  `json:"why"`
	Us   float64 `json:"us"`
}

// Stats is what the server has done since it started.
type Stats struct {
	Ready     bool              `json:"ready"`
	Queries   map[string]uint64 `json:"queries"`
	Answers   map[string]uint64 `json:"answers"`
	Cached    int               `json:"cached"`
	Limited   uint64            `json:"rateLimited"`
	Shed      uint64            `json:"shed"`
	Upstreams []forward.Status  `json:"upstreams"`
	Kernel    KernelWork        `json:"kernel"`
}

// TopRow is how often a name, or a client, was seen among the sampled queries.
type TopRow struct {
	What    string  `json:"what"`
	Of      string  `json:"of"`
	Share   float64 `json:"share"`
	Samples int     `json:"samples"`
}

// Inspect serves looks inside: /resolve?name=&type=&client=, /stats, /top and /ready.
func (s *Server) Inspect() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /resolve", func(w http.ResponseWriter, r *http.Request) {
		client, err := netip.ParseAddr(cmp.Or(r.FormValue("client"), "127.0.0.1"))
		qtype, known := dns.StringToType[cmp.Or(r.FormValue("type"), "A")]
		if err != nil || !known {
			http.Error(w, "client must be an address, type a record type", http.StatusBadRequest)
			return
		}
		e, err := s.Explain(r.Context(), r.FormValue("name"), qtype, client)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(e)
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(s.Stats()) })
	mux.HandleFunc("GET /top", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(cmp.Or(r.FormValue("n"), "10"))
		if err != nil {
			http.Error(w, "n must be a number", http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(s.Top(n))
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !s.Ready() {
			http.Error(w, "the cluster's objects are not all known yet", http.StatusServiceUnavailable)
		}
	})
	return mux
}

// Direct returns a function that gives the server's answer to a query over UDP, valid until the next call, and nil for what gets none or
// has to wait for others. The function is for one goroutine; nothing is counted.
func (s *Server) Direct() func(pkt []byte, client netip.Addr) []byte {
	w := s.newWorker(protoUDP, &stats{}, wire.MaxUDP)
	return func(pkt []byte, client netip.Addr) []byte {
		if w.handle(pkt, client, wire.MaxUDP, time.Now().UnixNano()) != answered {
			return nil
		}
		return w.r.Bytes()
	}
}

// Explain answers a question as if the client had asked it over TCP, by the very same code, and tells why. It is not counted.
func (s *Server) Explain(ctx context.Context, name string, qtype uint16, client netip.Addr) (Explanation, error) {
	pkt, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype).Pack()
	if err != nil {
		return Explanation{}, fmt.Errorf("%q cannot be asked for: %w", name, err)
	}
	began := time.Now()
	w := s.newWorker(protoTCP, &stats{}, wire.MaxUDP)
	res := resolution{why: "the configuration's rate limit dropped it"}
	switch w.handle(pkt, client, wire.MaxTCP, began.UnixNano()) {
	case answered:
		if w.from == fromCluster && s.inKernel(&w.q, client) {
			w.from = fromKernel
		}
		res = resolution{msg: w.r.Bytes(), from: w.from, why: reasons[w.from]}
	case slow:
		res = s.answerFor(ctx, &w.q, pkt, client, wire.MaxTCP, 0)
	}
	e := Explanation{Name: dns.Fqdn(name), Type: dns.TypeToString[qtype], Rcode: "none", From: cmp.Or(sourceNames[res.from], "server"), Why: res.why,
		Us: float64(time.Since(began).Nanoseconds()) / 1000}
	var m dns.Msg
	if len(res.msg) == 0 {
		return e, nil
	}
	if err := m.Unpack(res.msg); err != nil {
		return e, err
	}
	e.Rcode = dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		e.Answers = append(e.Answers, rr.String())
	}
	return e, nil
}

// reasons say where an answer comes from that nobody had to wait for.
var reasons = [sources]string{fromNowhere: "refused by the configuration, or not a question that is served", fromCluster: "the cluster's zone",
	fromCache: "the cache of upstream answers", fromHosts: "hosts of the configuration", fromKernel: "the cluster's zone, before the server is asked"}

// Stats adds up what the loops counted.
func (s *Server) Stats() Stats {
	sum, work := s.metrics.totals(), s.kernelWork()
	sum.addKernel(work)
	out := Stats{Ready: s.Ready(), Kernel: work, Queries: map[string]uint64{}, Answers: map[string]uint64{}, Cached: s.cache.Len(),
		Limited: sum.limited.Load(), Shed: s.metrics.shed.Load()}
	for z := range zones {
		for p := range protos {
			for f := range 2 {
				for t := range countedTypes {
					if v := sum.requests[z][p][f][t].Load(); v > 0 {
						out.Queries[typeName(t)] += v
					}
				}
			}
		}
		for from := range sources {
			for r := range maxRcode {
				if v := sum.responses[z][from][r].Load(); v > 0 {
					out.Answers[cmp.Or(sourceNames[from], "server")+" "+rcodeName(r)] += v
				}
			}
		}
	}
	set := s.settings.Load()
	out.Upstreams = set.root.Status()
	for _, zone := range slices.Sorted(maps.Keys(set.groups)) {
		out.Upstreams = append(out.Upstreams, set.groups[zone].Status()...)
	}
	return out
}

// Top lists the names and the clients that were seen most among the last sampled queries.
func (s *Server) Top(n int) []TopRow {
	names, clients, total := map[string]int{}, map[string]int{}, 0
	s.metrics.mu.Lock()
	loops := slices.Clone(s.metrics.loops)
	s.metrics.mu.Unlock()
	for _, st := range loops {
		st.mu.Lock()
		for _, one := range st.samples[:min(st.next, ring)] {
			total++
			names[dns.TypeToString[one.qtype]+" "+wire.NameString(one.name[:one.length])+" "+rcodeName(int(one.rcode))]++
			clients[one.client.String()]++
		}
		st.mu.Unlock()
	}
	var out []TopRow
	for what, counts := range map[string]map[string]int{"client": clients, "name": names} {
		keys := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
			return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
		})
		for _, k := range keys[:min(n, len(keys))] {
			out = append(out, TopRow{What: what, Of: k, Share: float64(counts[k]) / float64(total), Samples: counts[k]})
		}
	}
	slices.SortStableFunc(out, func(a, b TopRow) int { return -cmp.Compare(a.What, b.What) })
	return out
}
