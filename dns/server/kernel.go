package server

import (
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skep-io/skep/dns/wire"
)

// Kernel answers look-ups of cluster names before they come to the server, with the same bytes.
type Kernel interface {
	// Answers says whether it answers a question that the client sends by UDP.
	Answers(q *wire.Query, client netip.Addr) bool
	// Work is what it has done.
	Work() (KernelWork, error)
}

// KernelWork is what the kernel has done with look-ups.
type KernelWork struct {
	// State is what it does now: "answers", "answers, denies nothing" or "off".
	State string `json:"state"`
	// Answers are those that it gave.
	Answers []KernelAnswers `json:"-"` // they are counted with the server's
	// Left counts what it left to the server, by reason.
	Left map[string]uint64 `json:"left,omitempty"`
}

// KernelAnswers counts answers of one form.
type KernelAnswers struct {
	// Type is that of the question, 0 for all but A and AAAA. Family is 0 for IPv4, 1 for IPv6.
	Type   uint16
	Family int
	Rcode  int
	Count  uint64
}

// kernelWork is what the kernel has done; it never stops anybody from seeing what the server has.
func (s *Server) kernelWork() KernelWork {
	if s.cfg.Kernel == nil {
		return KernelWork{State: "off"}
	}
	work, err := s.cfg.Kernel.Work()
	if err != nil {
		s.cfg.Logger.Warn("the kernel's DNS answers cannot be counted", "error", err)
	}
	return work
}

// addKernel counts the kernel's answers as the server's own, from a source of their own.
func (st *stats) addKernel(work KernelWork) {
	for _, a := range work.Answers {
		st.requests[zoneCluster][protoUDP][a.Family][typeIndex(a.Type)].Add(a.Count)
		st.responses[zoneCluster][fromKernel][a.Rcode].Add(a.Count)
	}
}

var leftDesc = prometheus.NewDesc("skep_dns_kernel_left_total", "DNS queries of pods that the kernel left to the server, by reason.", []string{"reason"}, nil)

// inKernel says whether the kernel answers the question, so that the server is never asked.
func (s *Server) inKernel(q *wire.Query, client netip.Addr) bool {
	return s.cfg.Kernel != nil && s.cfg.Kernel.Answers(q, client)
}
