package runtime

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	goruntime "runtime"
	"strconv"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/control/agent/container"
)

// AttachRequest joins a client to a container's own streams. Streams may be nil.
type AttachRequest struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
}

// Attach joins the client to the container's streams until the container ends or ctx does. A client that fails to read is
// let go; it never holds up the container's log.
func (r *Runtime) Attach(ctx context.Context, id string, req AttachRequest) error {
	rec, err := r.lookup(id)
	if err != nil {
		return err
	}
	if rec.get().State != container.Running {
		return fmt.Errorf("container %q is not running: %w", id, errdefs.ErrFailedPrecondition)
	}
	rec.mu.Lock()
	output, in := rec.output, rec.stdin
	rec.mu.Unlock()
	for stream, w := range map[string]io.Writer{"stdout": req.Stdout, "stderr": req.Stderr} {
		if w != nil && output != nil {
			defer output.Attach(stream, w)()
		}
	}
	if req.Stdin != nil && in != nil {
		go r.feed(rec, in, req.Stdin)
	}
	for {
		select {
		case s, ok := <-req.Resize:
			if !ok {
				req.Resize = nil
				continue
			}
			_, _ = r.tasks.ResizePty(ctx, &tasks.ResizePtyRequest{ContainerID: id, Width: uint32(s.Width), Height: uint32(s.Height)})
		case <-rec.exited:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// feed copies a client's input. With StdinOnce, its end is the end of the container's input.
func (r *Runtime) feed(rec *record, in *stdin, from io.Reader) {
	in.mu.Lock()
	file := in.file
	in.mu.Unlock()
	if file == nil {
		return
	}
	_, _ = io.Copy(file, from)
	if rec.fixed.StdinOnce && !rec.fixed.TTY {
		in.close()
		_, _ = r.tasks.CloseIO(r.ctx, &tasks.CloseIORequest{ContainerID: rec.id(), Stdin: true})
	}
}

// PortForward connects the stream with a port on loopback in a network namespace; an empty path is the host's. It returns
// when either side ends.
func (r *Runtime) PortForward(ctx context.Context, netns string, port int32, stream io.ReadWriteCloser) error {
	conn, err := dialIn(ctx, netns, net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return fmt.Errorf("failed to connect to localhost:%d inside namespace %q: %w", port, netns, err)
	}
	defer conn.Close()
	results := make(chan error, 2)
	go func() {
		_, err := io.Copy(conn, stream)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
		if err != nil {
			results <- err
		}
	}()
	go func() {
		_, err := io.Copy(stream, conn)
		results <- err
	}()
	select {
	case err := <-results:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dialIn connects from within a network namespace, on a thread that ends with it.
func dialIn(ctx context.Context, netns, address string) (net.Conn, error) {
	if netns == "" {
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	ns, err := os.Open(netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// The thread is never unlocked: it is in the wrong namespace for all others, and ends with the goroutine.
		goruntime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: err}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", address)
		done <- result{conn, err}
	}()
	res := <-done
	return res.conn, res.err
}
