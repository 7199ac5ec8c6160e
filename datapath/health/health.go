// Package health tells load balancers outside whether this node has endpoints of a Service whose external traffic policy is Local:
// an HTTP server on each such Service's healthCheckNodePort.
package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Service is what a load balancer asks about.
type Service struct {
	Namespace, Name string
	// Port is where it asks, on every address of the node.
	Port uint16
	// Local is how many endpoints on this node take connections.
	Local int
}

// Server answers for all Services of a node. It is safe for concurrent use.
type Server struct {
	logger *slog.Logger
	ready  func() bool

	mu      sync.Mutex
	answers map[name]*answer
}

type name struct{ namespace, service string }

type answer struct {
	service Service
	server  *http.Server
}

// NewServer returns a server of no Service. ready tells whether the node's tables follow the API. Close it.
func NewServer(ready func() bool, logger *slog.Logger) *Server {
	return &Server{logger: logger, ready: ready, answers: map[name]*answer{}}
}

// Set begins to answer for a Service, or changes the answer. An error names the Service and port, and concerns it alone.
func (s *Server) Set(service Service) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := name{service.Namespace, service.Name}
	if a := s.answers[n]; a != nil && a.service.Port == service.Port {
		a.service.Local = service.Local
		return nil
	}
	s.remove(n)
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(int(service.Port))))
	if err != nil {
		return fmt.Errorf("health check of service %s/%s: %w", service.Namespace, service.Name, err)
	}
	a := &answer{service: service}
	a.server = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.serve(w, a) }),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
	}
	s.answers[n] = a
	go func() {
		if err := a.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.logger.Warn("health check ended", "service", service.Namespace+"/"+service.Name, "error", err)
		}
	}()
	return nil
}

// Remove stops to answer for a Service.
func (s *Server) Remove(namespace, service string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(name{namespace, service})
}

// remove needs mu held.
func (s *Server) remove(n name) {
	if a := s.answers[n]; a != nil {
		a.server.Close()
		delete(s.answers, n)
	}
}

// Close stops to answer for all Services.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.answers {
		s.remove(n)
	}
}

// response is what kube-proxy answers, which load balancers know.
type response struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

func (s *Server) serve(w http.ResponseWriter, a *answer) {
	s.mu.Lock()
	service := a.service
	s.mu.Unlock()
	r := response{LocalEndpoints: service.Local, ServiceProxyHealthy: s.ready()}
	r.Service.Namespace, r.Service.Name = service.Namespace, service.Name
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(service.Local))
	if service.Local == 0 || !r.ServiceProxyHealthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(r) // the balancer went away
}
