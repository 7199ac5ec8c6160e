package apiserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/runtime"
	"github.com/skep-io/skep/control/agent/stream"
	"github.com/skep-io/skep/control/pki"
)

// echo runs commands that say what they read.
type echo struct{}

func (echo) Status(context.Context, string) (container.Status, error) { return container.Status{}, nil }

func (echo) Exec(_ context.Context, id string, req runtime.ExecRequest) (int, error) {
	fmt.Fprintf(req.Stdout, "%s %v ", id, req.Command)
	if req.TTY {
		fmt.Fprintf(req.Stdout, "%v ", <-req.Resize)
	}
	if req.Stdin != nil {
		_, _ = io.Copy(req.Stdout, req.Stdin)
	}
	if req.Stderr != nil {
		fmt.Fprint(req.Stderr, "complaint")
	}
	return 7, nil
}

func (echo) Attach(_ context.Context, id string, req runtime.AttachRequest) error {
	fmt.Fprintf(req.Stdout, "joined %s", id)
	return nil
}

func (echo) PortForward(_ context.Context, _ string, port int32, s io.ReadWriteCloser) error {
	fmt.Fprintf(s, "%d ", port)
	_, err := io.Copy(s, s)
	return err
}

func (echo) Container(_ context.Context, _, _, _, name string, _ bool) (container.Status, error) {
	if name == "lost" {
		return container.Status{}, fmt.Errorf("container lost: %w", stream.ErrNotFound)
	}
	return container.Status{ID: "id-of-" + name}, nil
}

func (echo) NetNS(context.Context, string, string, string) (string, error) { return "", nil }

// agent is a node's https server with a certificate of the cluster.
type agent struct {
	*httptest.Server
	port int
}

// newAgent listens at once and serves once it has its certificate.
func newAgent(t *testing.T) *agent {
	t.Helper()
	streams := stream.New(echo{}, echo{}, slog.New(slog.DiscardHandler))
	a := &agent{Server: httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/containerLogs/default/p/main" {
			fmt.Fprint(w, r.URL.Query().Encode())
			return
		}
		streams.ServeHTTP(w, r)
	}))}
	a.port = a.Listener.Addr().(*net.TCPAddr).Port
	t.Cleanup(a.Close)
	return a
}

// serve makes the agent serve for the node at ip, to callers that the CA of the cluster vouches for.
func (a *agent) serve(t *testing.T, keys *pki.Bundle, ip netip.Addr) {
	t.Helper()
	node, err := keys.EnsureNode("n", []netip.Addr{ip})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(node.Server.Cert, node.Server.Key)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(keys.CA.Cert)
	a.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	a.StartTLS()
}

// withPod runs a cluster with the node "n", whose certificate is for ip, and the pod "p" on it.
func withPod(t *testing.T, ip netip.Addr, containers ...string) *cluster {
	t.Helper()
	a := newAgent(t)
	c, _ := start(t, t.TempDir(), a.port)
	a.serve(t, c.keys, ip)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	node, err := c.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: loopback.String()}}
	if _, err := c.client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	newPod(t, c.client, "p", containers...)
	if err := bind(t.Context(), c.client, "p", "n", nil); err != nil {
		t.Fatal(err)
	}
	return c
}

// executors speak each protocol of exec and attach.
func (c *cluster) executors(t *testing.T, u *url.URL) map[string]remotecommand.Executor {
	t.Helper()
	ws, err := remotecommand.NewWebSocketExecutor(c.config, "GET", u.String())
	if err != nil {
		t.Fatal(err)
	}
	v4, err := remotecommand.NewWebSocketExecutorForProtocols(c.config, "GET", u.String(), "v4.channel.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	over, err := remotecommand.NewSPDYExecutor(c.config, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"WebSocket v5": ws, "WebSocket v4": v4, "SPDY": over}
}

func TestExec(t *testing.T) {
	c := withPod(t, loopback, "main", "side")
	request := func(options *corev1.PodExecOptions) *url.URL {
		return c.client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("p").SubResource("exec").
			VersionedParams(options, scheme.ParameterCodec).URL()
	}
	u := request(&corev1.PodExecOptions{Container: "main", Command: []string{"say", "it"}, Stdin: true, Stdout: true, Stderr: true})
	for name, executor := range c.executors(t, u) {
		var out, errout bytes.Buffer
		options := remotecommand.StreamOptions{Stdout: &out, Stderr: &errout, Stdin: strings.NewReader("hello")}
		if name == "WebSocket v4" {
			options.Stdin = nil // it cannot say that the input has ended
			executor = c.executors(t, request(&corev1.PodExecOptions{Container: "main", Command: []string{"say", "it"}, Stdout: true, Stderr: true}))[name]
		}
		err := executor.StreamWithContext(t.Context(), options)
		var exit exec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 7 {
			t.Errorf("%s: exit: %v", name, err)
		}
		if want := "id-of-main [say it] "; !strings.HasPrefix(out.String(), want) || options.Stdin != nil && out.String() != want+"hello" || errout.String() != "complaint" {
			t.Errorf("%s: %q %q", name, out.String(), errout.String())
		}
	}

	tty := request(&corev1.PodExecOptions{Container: "side", Command: []string{"sh"}, Stdout: true, TTY: true})
	for name, executor := range c.executors(t, tty) {
		var out bytes.Buffer
		_ = executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out, Tty: true, TerminalSizeQueue: &sizes{{Width: 80, Height: 25}}})
		if out.String() != "id-of-side [sh] {80 25} " {
			t.Errorf("%s with a terminal: %q", name, out.String())
		}
	}

	for name, executor := range c.executors(t, request(&corev1.PodExecOptions{Command: []string{"sh"}, Stdout: true})) {
		err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "a container name must be specified for pod p, choose one of: [main side]") {
			t.Errorf("%s without a container: %v", name, err)
		}
	}
}

// sizes gives each size once.
type sizes []remotecommand.TerminalSize

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(*s) == 0 {
		return nil
	}
	next := (*s)[0]
	*s = (*s)[1:]
	return &next
}

func TestAttach(t *testing.T) {
	c := withPod(t, loopback, "main")
	u := c.client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("p").SubResource("attach").
		VersionedParams(&corev1.PodAttachOptions{Stdout: true}, scheme.ParameterCodec).URL()
	for name, executor := range c.executors(t, u) {
		var out bytes.Buffer
		if err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out}); err != nil || out.String() != "joined id-of-main" {
			t.Errorf("%s: %q, %v", name, out.String(), err)
		}
	}
}

func TestPortForward(t *testing.T) {
	c := withPod(t, loopback, "main")
	u := c.client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("p").SubResource("portforward").URL()
	tunnel, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, c.config)
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		t.Fatal(err)
	}
	dialers := map[string]httpstream.Dialer{"WebSocket": tunnel, "SPDY": spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, "POST", u)}
	for name, dialer := range dialers {
		t.Run(name, func(t *testing.T) { forward(t, dialer) })
	}
}

// forward sends a word through a forwarded port.
func forward(t *testing.T, dialer httpstream.Dialer) {
	stop, ready := make(chan struct{}), make(chan struct{})
	f, err := portforward.NewForStreaming(dialer, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0].Local))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "word")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "8080 word" {
		t.Errorf("%q, %v", got, err)
	}
	close(stop)
	if err := <-done; err != nil && !errors.Is(err, portforward.ErrLostConnectionToPod) {
		t.Error(err)
	}
}

func TestLog(t *testing.T) {
	c := withPod(t, loopback, "main", "side", "lost")
	pods := c.client.CoreV1().Pods("default")
	number := func(n int64) *int64 { return &n }
	get := func(name string, o corev1.PodLogOptions) (string, error) {
		return read(pods.GetLogs(name, &o).Stream(t.Context()))
	}
	got, err := get("p", corev1.PodLogOptions{Container: "main", Follow: true, TailLines: number(0), LimitBytes: number(5), SinceSeconds: number(1), Timestamps: true})
	if err != nil || got != "follow=true&limitBytes=5&sinceSeconds=1&tailLines=0&timestamps=true" {
		t.Errorf("%q, %v", got, err)
	}
	now := metav1.Now()
	for words, o := range map[string]corev1.PodLogOptions{
		"tailLines: Invalid value: -1: must be greater than or equal to 0": {TailLines: number(-1)},
		"limitBytes: Invalid value: 0: must be greater than 0":             {LimitBytes: number(0)},
		"sinceSeconds: Invalid value: 0: must be greater than 0":           {SinceSeconds: number(0)},
		"at most one of `sinceTime` or `sinceSeconds` may be specified":    {SinceSeconds: number(1), SinceTime: &now},
	} {
		_, err := get("p", o)
		wantError(t, err, metav1.StatusReasonInvalid, words)
	}
	_, err = get("p", corev1.PodLogOptions{})
	wantError(t, err, metav1.StatusReasonBadRequest, "a container name must be specified for pod p, choose one of: [main side lost]")
	_, err = get("p", corev1.PodLogOptions{Container: "x"})
	wantError(t, err, metav1.StatusReasonBadRequest, "container x is not valid for pod p")
	_, err = get("p", corev1.PodLogOptions{Container: "lost"})
	wantError(t, err, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	_, err = get("absent", corev1.PodLogOptions{})
	wantError(t, err, metav1.StatusReasonNotFound, `pods "absent" not found`)
	newPod(t, c.client, "unassigned", "main")
	if got, err := get("unassigned", corev1.PodLogOptions{}); err != nil || got != "" {
		t.Errorf("a pod on no node: %q, %v", got, err)
	}
}

// read reads a stream to its end, and passes an error of opening it on.
func read(stream io.ReadCloser, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer stream.Close()
	out, err := io.ReadAll(stream)
	return string(out), err
}

// TestNodeIsVerified has a node whose certificate is for another address.
func TestNodeIsVerified(t *testing.T) {
	c := withPod(t, netip.MustParseAddr("198.18.90.9"), "main")
	_, err := read(c.client.CoreV1().Pods("default").GetLogs("p", &corev1.PodLogOptions{}).Stream(t.Context()))
	if err == nil || !strings.Contains(err.Error(), "x509") {
		t.Errorf("logs: %v", err)
	}
	u := c.client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("p").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"x"}, Stdout: true}, scheme.ParameterCodec).URL()
	for name, executor := range c.executors(t, u) {
		if err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard}); err == nil || !strings.Contains(err.Error(), "x509") {
			t.Errorf("exec over %s: %v", name, err)
		}
	}
}
