package health

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"testing"
)

// freePort finds a port that nobody listens on.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func ask(t *testing.T, port uint16) (status int, r response, header http.Header) {
	t.Helper()
	answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&r); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, r, answer.Header
}

func TestServer(t *testing.T) {
	ready := true
	s := NewServer(func() bool { return ready }, slog.New(slog.DiscardHandler))
	defer s.Close()
	port := freePort(t)
	for _, step := range []struct {
		local, status int
		ready         bool
	}{{2, 200, true}, {0, 503, true}, {1, 200, true}, {1, 503, false}} {
		ready = step.ready
		if err := s.Set(Service{"ns", "web", port, step.local}); err != nil {
			t.Fatal(err)
		}
		status, r, header := ask(t, port)
		if status != step.status || r.LocalEndpoints != step.local || r.Service.Name != "web" || r.ServiceProxyHealthy != step.ready {
			t.Errorf("%+v: status %d, %+v", step, status, r)
		}
		if got := header.Get("X-Load-Balancing-Endpoint-Weight"); got != fmt.Sprint(step.local) {
			t.Errorf("%+v: weight %q", step, got)
		}
	}
	if err := s.Set(Service{"ns", "other", port, 1}); err == nil {
		t.Error("a port was given to two Services")
	}
	moved := freePort(t)
	if err := s.Set(Service{"ns", "web", moved, 1}); err != nil {
		t.Fatal(err)
	}
	ready = true
	if status, _, _ := ask(t, moved); status != 200 {
		t.Errorf("at its new port: status %d", status)
	}
	s.Remove("ns", "web")
	for _, p := range []uint16{port, moved} {
		if _, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", p)); err == nil {
			t.Errorf("port %d still answers", p)
		}
	}
}
