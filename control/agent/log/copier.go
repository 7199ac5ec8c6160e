package log

import (
	"bufio"
	"errors"
	"io"
	"sync"
	"time"
)

// Copier copies the output of one container to its log, and to whoever is attached. It is safe for concurrent use.
type Copier struct {
	log     *Writer
	streams sync.WaitGroup

	mu   sync.Mutex
	taps map[*tap]struct{}
	done chan struct{}
}

// tap is a client attached to the output.
type tap struct {
	stream string
	w      io.Writer
}

// NewCopier copies into the log, which it closes at the end of all streams. readers maps stream names to where they are
// read; the Copier closes them.
func NewCopier(log *Writer, readers map[string]io.ReadCloser) *Copier {
	c := &Copier{log: log, taps: map[*tap]struct{}{}, done: make(chan struct{})}
	for stream, r := range readers {
		c.streams.Go(func() {
			defer r.Close()
			c.copy(stream, r)
		})
	}
	go func() {
		c.streams.Wait()
		c.log.Close()
		close(c.done)
	}()
	return c
}

// Done is closed when all streams have ended and all they held is in the log.
func (c *Copier) Done() <-chan struct{} { return c.done }

// Attach sends what a stream says from now on to w too, until detach is called or w fails.
func (c *Copier) Attach(stream string, w io.Writer) (detach func()) {
	t := &tap{stream, w}
	c.mu.Lock()
	c.taps[t] = struct{}{}
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		delete(c.taps, t)
		c.mu.Unlock()
	}
}

// copy reads a stream to its end. A log that cannot be written (a full disk) loses lines but never blocks the container.
func (c *Copier) copy(stream string, r io.Reader) {
	br := bufio.NewReaderSize(teeReader{r, c, stream}, maxLine)
	for {
		text, err := br.ReadSlice('\n')
		partial := errors.Is(err, bufio.ErrBufferFull)
		if len(text) > 0 && (err == nil || partial) || len(text) > 0 && errors.Is(err, io.EOF) {
			if text[len(text)-1] == '\n' {
				text = text[:len(text)-1]
			} else {
				partial = true
			}
			_ = c.log.Line(time.Now().UTC(), stream, partial, text)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// teeReader passes raw bytes to the attached clients as they are read, before they are cut into lines.
type teeReader struct {
	io.Reader
	copier *Copier
	stream string
}

func (t teeReader) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if n > 0 {
		t.copier.tee(t.stream, p[:n])
	}
	return n, err
}

func (c *Copier) tee(stream string, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.taps {
		if t.stream != stream {
			continue
		}
		if _, err := t.w.Write(data); err != nil {
			delete(c.taps, t)
		}
	}
}
