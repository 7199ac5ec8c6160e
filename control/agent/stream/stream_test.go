package stream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/runtime"
)

// echo is a node with one container, whose commands say what they read.
type echo struct{}

func (echo) Status(context.Context, string) (container.Status, error) { return container.Status{}, nil }

func (echo) Exec(_ context.Context, id string, req runtime.ExecRequest) (int, error) {
	fmt.Fprintf(req.Stdout, "%s %v ", id, req.Command)
	if req.Stdin != nil {
		_, _ = io.Copy(req.Stdout, req.Stdin)
	}
	fmt.Fprint(req.Stderr, "complaint")
	return 7, nil
}

func (echo) Attach(context.Context, string, runtime.AttachRequest) error { return nil }

func (echo) PortForward(context.Context, string, int32, io.ReadWriteCloser) error { return nil }

func (echo) Container(_ context.Context, _, pod, _, name string, _ bool) (container.Status, error) {
	if pod != "pod" {
		return container.Status{}, fmt.Errorf("pod %s: %w", pod, ErrNotFound)
	}
	return container.Status{ID: "id-of-" + name}, nil
}

func (echo) NetNS(context.Context, string, string, string) (string, error) { return "", nil }

func TestExec(t *testing.T) {
	server := httptest.NewServer(New(echo{}, echo{}, slog.New(slog.DiscardHandler)))
	defer server.Close()
	target, err := url.Parse(server.URL + "/exec/ns/pod/main?command=say&command=it&input=1&output=1&error=1")
	if err != nil {
		t.Fatal(err)
	}
	config := &rest.Config{Host: server.URL}
	spdy, err := remotecommand.NewSPDYExecutor(config, "POST", target)
	if err != nil {
		t.Fatal(err)
	}
	var out, errout bytes.Buffer
	err = spdy.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errout})
	if code, ok := err.(exec.CodeExitError); !ok || code.Code != 7 {
		t.Errorf("exit: %v", err)
	}
	if out.String() != "id-of-main [say it] hello" || errout.String() != "complaint" {
		t.Errorf("%q %q", out.String(), errout.String())
	}
}

func TestWebSocketExec(t *testing.T) {
	server := httptest.NewServer(New(echo{}, echo{}, slog.New(slog.DiscardHandler)))
	defer server.Close()
	target := server.URL + "/exec/ns/pod/main?command=say&output=1&error=1"
	ws, err := remotecommand.NewWebSocketExecutorForProtocols(&rest.Config{Host: server.URL}, "GET", target, "v4.channel.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	var out, errout bytes.Buffer
	err = ws.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out, Stderr: &errout})
	if code, ok := err.(exec.CodeExitError); !ok || code.Code != 7 {
		t.Errorf("exit: %v", err)
	}
	if out.String() != "id-of-main [say] " || errout.String() != "complaint" {
		t.Errorf("%q %q", out.String(), errout.String())
	}
}

func TestNotFound(t *testing.T) {
	w := httptest.NewRecorder()
	New(echo{}, echo{}, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/containerLogs/ns/other/main", nil))
	if w.Code != 404 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
