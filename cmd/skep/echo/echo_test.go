package echo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// free returns a loopback address whose port was free a moment ago.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestEveryProtocolAnswersWithTheName(t *testing.T) {
	cfg := Config{Name: "pod-1", HTTP: free(t), TCP: free(t), UDP: free(t)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, cfg) }()

	for _, network := range []string{"tcp", "udp"} {
		addr := map[string]string{"tcp": cfg.TCP, "udp": cfg.UDP}[network]
		conn := dial(t, network, addr, cfg.UDP)
		fmt.Fprintln(conn, "hello")
		if line, err := bufio.NewReader(conn).ReadString('\n'); line != "pod-1\n" {
			t.Errorf("%s: %q, %v", network, line, err)
		}
		conn.Close()
	}
	resp, err := http.Get("http://" + cfg.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "pod-1\n" {
		t.Errorf("http: %q, %v", body, err)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// dial connects, trying again while the server has not begun to listen. UDP listens last.
func dial(t *testing.T, network, addr, last string) net.Conn {
	t.Helper()
	for {
		conn, err := net.Dial(network, addr)
		if err == nil && listening(last) {
			return conn
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// listening says whether a UDP socket holds addr.
func listening(addr string) bool {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return true
	}
	c.Close()
	return false
}
