// Package stream serves the node's https interface: the logs of containers, commands in them, attaching to them and
// forwarding ports to them, at the paths of a kubelet, over WebSocket and SPDY.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/exec"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/runtime"
)

// idleTimeout is how long a stream may be silent, as the kubelet's default.
const idleTimeout = 4 * time.Hour

// ErrNotFound is returned by a Resolver for a pod or container that the node does not run.
var ErrNotFound = errors.New("not found")

// Containers is what the server asks of the runtime.
type Containers interface {
	Status(ctx context.Context, id string) (container.Status, error)
	Exec(ctx context.Context, id string, req runtime.ExecRequest) (code int, err error)
	Attach(ctx context.Context, id string, req runtime.AttachRequest) error
	PortForward(ctx context.Context, netns string, port int32, stream io.ReadWriteCloser) error
}

// Resolver finds what the names in a request mean on this node.
type Resolver interface {
	// Container returns the newest container of that name; with previous, the one before it. uid may be empty.
	Container(ctx context.Context, namespace, pod, uid, name string, previous bool) (container.Status, error)
	// NetNS returns the path of the pod's network namespace, empty for a pod in the host's.
	NetNS(ctx context.Context, namespace, pod, uid string) (path string, err error)
}

// Server is the http.Handler. Who may call it is decided before it, by the certificate of the TLS connection.
type Server struct {
	mux        *http.ServeMux
	containers Containers
	resolver   Resolver
	logger     *slog.Logger
}

// New makes the handler.
func New(containers Containers, resolver Resolver, logger *slog.Logger) *Server {
	s := &Server{mux: http.NewServeMux(), containers: containers, resolver: resolver, logger: logger}
	s.mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, method := range []string{"GET ", "POST "} {
		for _, pod := range []string{"{namespace}/{pod}/", "{namespace}/{pod}/{uid}/"} {
			s.mux.HandleFunc(method+"/exec/"+pod+"{container}", s.exec)
			s.mux.HandleFunc(method+"/attach/"+pod+"{container}", s.attach)
		}
		s.mux.HandleFunc(method+"/portForward/{namespace}/{pod}", s.portForward)
		s.mux.HandleFunc(method+"/portForward/{namespace}/{pod}/{uid}", s.portForward)
	}
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	return s
}

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// find answers the request itself when there is no such container.
func (s *Server) find(w http.ResponseWriter, r *http.Request, previous bool) (container.Status, bool) {
	status, err := s.resolver.Container(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"), r.PathValue("container"), previous)
	if err != nil {
		refuse(w, err)
		return container.Status{}, false
	}
	return status, true
}

func refuse(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	if errors.Is(err, ErrNotFound) {
		code = http.StatusNotFound
	}
	http.Error(w, err.Error(), code)
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	status, ok := s.find(w, r, false)
	if !ok {
		return
	}
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, bridge{s.containers}, status.PodName, string(status.PodUID), status.ID, r.URL.Query()["command"], options,
		idleTimeout, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	status, ok := s.find(w, r, false)
	if !ok {
		return
	}
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeAttach(w, r, bridge{s.containers}, status.PodName, string(status.PodUID), status.ID, options,
		idleTimeout, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	netns, err := s.resolver.NetNS(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"))
	if err != nil {
		refuse(w, err)
		return
	}
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// The library passes the pod's name through: here it is the path of the namespace to connect in.
	portforward.ServePortForward(w, r, bridge{s.containers}, netns, "", options,
		idleTimeout, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
}

// bridge is the runtime as the streaming library sees it.
type bridge struct{ containers Containers }

// ExecInContainer runs a command; a code other than 0 is an exec.CodeExitError.
func (b bridge) ExecInContainer(ctx context.Context, _, _, id string, cmd []string, in io.Reader, out, errout io.WriteCloser, tty bool,
	resize <-chan remotecommand.TerminalSize, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	code, err := b.containers.Exec(ctx, id, runtime.ExecRequest{
		Command: cmd, Stdin: in, Stdout: writer(out), Stderr: writer(errout), TTY: tty, Resize: sizes(ctx, resize),
	})
	if err != nil {
		return err
	}
	if code != 0 {
		return exec.CodeExitError{Err: fmt.Errorf("error executing command %v, exit code %d", cmd, code), Code: code}
	}
	return nil
}

// AttachContainer joins a container's streams.
func (b bridge) AttachContainer(ctx context.Context, _, _, id string, in io.Reader, out, errout io.WriteCloser, _ bool,
	resize <-chan remotecommand.TerminalSize) error {
	return b.containers.Attach(ctx, id, runtime.AttachRequest{Stdin: in, Stdout: writer(out), Stderr: writer(errout), Resize: sizes(ctx, resize)})
}

// PortForward connects to a port; name is the path of a network namespace.
func (b bridge) PortForward(ctx context.Context, name, _ string, port int32, stream io.ReadWriteCloser) error {
	return b.containers.PortForward(ctx, name, port, stream)
}

// writer keeps a missing stream a nil interface.
func writer(w io.WriteCloser) io.Writer {
	if w == nil {
		return nil
	}
	return w
}

// sizes converts until the client is gone.
func sizes(ctx context.Context, in <-chan remotecommand.TerminalSize) <-chan runtime.Size {
	if in == nil {
		return nil
	}
	out := make(chan runtime.Size)
	go func() {
		defer close(out)
		for {
			select {
			case s, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- runtime.Size{Width: s.Width, Height: s.Height}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// flusher sends each piece at once: a follower waits for it.
type flusher struct {
	w       io.Writer
	control *http.ResponseController
}

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}

func isTrue(value string) bool { return value == "1" || strings.EqualFold(value, "true") }
