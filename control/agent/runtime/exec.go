package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"

	"github.com/skep-io/skep/control/agent/container"
)

// maxSyncOutput is how much output of each stream ExecSync keeps, in bytes.
const maxSyncOutput = 16 << 20

// Size is that of a terminal, in characters.
type Size struct{ Width, Height uint16 }

// ExecRequest is one command to run in a running container. Streams may be nil.
type ExecRequest struct {
	Command        []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	// Resize tells of changes of the client's terminal; may be nil.
	Resize <-chan Size
}

// ExecSync runs a command and returns its output. With a timeout above 0, a command that takes longer is killed, and the
// error is one for which errors.Is(err, context.DeadlineExceeded) holds.
func (r *Runtime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, code int, err error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var out, errout limited
	code, err = r.Exec(ctx, id, ExecRequest{Command: cmd, Stdout: &out, Stderr: &errout})
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("command %q timed out: %w", cmd, context.DeadlineExceeded)
	}
	return out.Bytes(), errout.Bytes(), code, err
}

// limited keeps the beginning of what is written.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxSyncOutput - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// Exec runs a command in a running container and returns its exit code. If ctx ends first, the command is killed.
func (r *Runtime) Exec(ctx context.Context, id string, req ExecRequest) (code int, err error) {
	rec, err := r.lookup(id)
	if err != nil {
		return -1, err
	}
	if rec.get().State != container.Running {
		return -1, fmt.Errorf("container %q is not running: %w", id, errdefs.ErrFailedPrecondition)
	}
	input := &eofReader{Reader: req.Stdin, eof: make(chan struct{})}
	proc, err := r.execProcess(ctx, id, req, input)
	if err != nil {
		return -1, fmt.Errorf("failed to exec in container: %w", err)
	}
	quiet := context.WithoutCancel(ctx)
	defer func() { _, _ = proc.Delete(quiet, containerd.WithProcessKill) }()
	exit, err := proc.Wait(quiet)
	if err != nil {
		return -1, fmt.Errorf("failed to exec in container: %w", err)
	}
	if err := proc.Start(ctx); err != nil {
		return -1, fmt.Errorf("failed to exec in container: failed to start exec: %w", err)
	}
	stop := make(chan struct{})
	defer close(stop)
	go relay(quiet, proc, req.Resize, input.eof, stop)
	select {
	case <-ctx.Done():
		_ = proc.Kill(quiet, syscall.SIGKILL)
		<-exit
		return -1, ctx.Err()
	case status := <-exit:
		proc.IO().Wait()
		return int(status.ExitCode()), status.Error()
	}
}

func (r *Runtime) execProcess(ctx context.Context, id string, req ExecRequest, input *eofReader) (containerd.Process, error) {
	c, err := r.client.LoadContainer(ctx, id)
	if err != nil {
		return nil, err
	}
	spec, err := c.Spec(ctx)
	if err != nil {
		return nil, err
	}
	t, err := c.Task(ctx, nil)
	if err != nil {
		return nil, err
	}
	p := *spec.Process
	p.Args, p.Terminal, p.CommandLine = req.Command, req.TTY, ""
	streams := []cio.Opt{cio.WithFIFODir(filepath.Join(r.cfg.StateDir, "exec"))}
	if req.TTY {
		streams = append(streams, cio.WithTerminal)
	}
	var in io.Reader
	if req.Stdin != nil {
		in = input
	}
	streams = append(streams, cio.WithStreams(in, orDiscard(req.Stdout), orDiscard(req.Stderr)))
	return t.Exec(ctx, "exec-"+newID()[:16], &p, cio.NewCreator(streams...))
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// relay passes the client's window changes and the end of its input to the process.
func relay(ctx context.Context, proc containerd.Process, sizes <-chan Size, eof, stop <-chan struct{}) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				sizes = nil
				continue
			}
			_ = proc.Resize(ctx, uint32(s.Width), uint32(s.Height))
		case <-eof:
			_ = proc.CloseIO(ctx, containerd.WithStdinCloser)
			eof = nil
		case <-stop:
			return
		}
	}
}

// eofReader tells of the end of a reader, which must be passed on by another way than the data.
type eofReader struct {
	io.Reader
	eof  chan struct{}
	done bool
}

func (e *eofReader) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if err != nil && !e.done {
		e.done = true
		close(e.eof)
	}
	return n, err
}
