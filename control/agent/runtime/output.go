package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/control/agent/log"
)

// pipeSize lets a container go on writing for a while when nobody reads, in bytes.
const pipeSize = 1 << 20

// pipes are the FIFOs between a container's shim and the runtime.
type pipes struct {
	dir        string
	tty, stdin bool
}

func (p pipes) path(stream string) string { return filepath.Join(p.dir, stream) }

func (p pipes) streams() []string {
	if p.tty {
		// A terminal has one output.
		return []string{"stdout"}
	}
	return []string{"stdout", "stderr"}
}

// create makes the FIFOs.
func (p pipes) create() error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("container pipes: %w", err)
	}
	names := p.streams()
	if p.stdin {
		names = append(names, "stdin")
	}
	for _, name := range names {
		if err := unix.Mkfifo(p.path(name), 0o600); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("container pipe %s: %w", p.path(name), err)
		}
	}
	return nil
}

// open opens the FIFOs that a container writes to. With hold, a writer is kept open for each until release is called, so that
// reading does not end before the shim has opened its own; without, reading ends when no shim has them open.
func (p pipes) open(hold bool) (readers map[string]io.ReadCloser, release func(), err error) {
	readers = map[string]io.ReadCloser{}
	var held []*os.File
	release = func() {
		for _, f := range held {
			f.Close()
		}
	}
	for _, name := range p.streams() {
		r, w, err := openOutput(p.path(name), hold)
		if err != nil {
			release()
			for _, r := range readers {
				r.Close()
			}
			return nil, nil, fmt.Errorf("container pipe: %w", err)
		}
		readers[name] = r
		if w != nil {
			held = append(held, w)
		}
	}
	return readers, release, nil
}

// openOutput opens one FIFO; w is nil unless hold is set.
func openOutput(path string, hold bool) (r, w *os.File, err error) {
	if r, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return nil, nil, err
	}
	if raw, err := r.SyscallConn(); err == nil {
		// A smaller pipe (the user's limit may be reached) only blocks the container sooner.
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
	}
	if !hold {
		return r, nil, nil
	}
	if w, err = os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, w, nil
}

// copyOutput starts copying into the log at path; without a path, output is dropped.
func copyOutput(path string, readers map[string]io.ReadCloser) (*log.Copier, error) {
	if path == "" {
		path = os.DevNull
	}
	w, err := log.Open(path)
	if err != nil {
		for _, r := range readers {
			r.Close()
		}
		return nil, err
	}
	return log.NewCopier(w, readers), nil
}

// stdin is the standard input of a container.
type stdin struct {
	mu   sync.Mutex
	file *os.File
}

// openStdin holds the FIFO open for reading too, so that it neither fails nor blocks without a shim.
func (p pipes) openStdin() (*stdin, error) {
	if !p.stdin {
		return nil, nil
	}
	f, err := os.OpenFile(p.path("stdin"), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("container pipe: %w", err)
	}
	return &stdin{file: f}, nil
}

func (s *stdin) close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}
