// Package log writes the output of containers to files in the CRI log format, and reads it back.
//
// A line of the format is "<RFC 3339 time with nanoseconds> <stdout|stderr> <P|F> <text>"; P marks a part of a longer line.
package log

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// maxLine is the longest text of one log line in bytes; longer lines are split into parts.
	maxLine = 16 << 10
	// maxSize is the size in bytes at which a file is rotated, maxFiles how many are kept, as the kubelet's defaults.
	maxSize  = 10 << 20
	maxFiles = 5
	stamp    = "2006-01-02T15:04:05.000000000Z07:00"
)

// Writer appends to the log file of one container and rotates it. It is safe for concurrent use.
type Writer struct {
	path     string
	maxSize  int64
	maxFiles int

	mu   sync.Mutex
	file *os.File
	size int64
	buf  []byte
}

// Open opens or makes the log file and its directory. The caller closes the Writer.
func Open(path string) (*Writer, error) {
	w := &Writer{path: path, maxSize: maxSize, maxFiles: maxFiles}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("log directory: %w", err)
	}
	if err := w.open(); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *Writer) open() error {
	f, err := os.OpenFile(w.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("log file: %w", err)
	}
	w.file, w.size = f, st.Size()
	return nil
}

// Line writes one line, or part of one, of a stream. The text holds no newline.
func (w *Writer) Line(at time.Time, stream string, partial bool, text []byte) error {
	tag := " F "
	if partial {
		tag = " P "
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return os.ErrClosed
	}
	w.buf = at.AppendFormat(w.buf[:0], stamp)
	w.buf = append(w.buf, " "+stream+tag...)
	w.buf = append(append(w.buf, text...), '\n')
	n, err := w.file.Write(w.buf)
	w.size += int64(n)
	// A line is not torn apart by rotation: parts of one line stay in one file.
	if err == nil && w.size >= w.maxSize && !partial {
		err = w.rotate()
	}
	return err
}

// rotate shifts path.1 to path.2 and so on, drops the oldest, and starts a new file.
func (w *Writer) rotate() error {
	for i := w.maxFiles - 2; i >= 1; i-- {
		if err := os.Rename(w.rotated(i), w.rotated(i+1)); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("rotate log: %w", err)
		}
	}
	if err := os.Rename(w.path, w.rotated(1)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("rotate log: %w", err)
	}
	w.file.Close()
	w.file = nil
	return w.open()
}

func (w *Writer) rotated(i int) string { return fmt.Sprintf("%s.%d", w.path, i) }

// Close closes the file. It may be called again.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}
