package stream

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/skep-io/skep/control/agent/container"
	"github.com/skep-io/skep/control/agent/log"
)

// logs serves a container's log, with the parameters of PodLogOptions.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	options, err := logOptions(query, time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	status, ok := s.find(w, r, isTrue(query.Get("previous")))
	if !ok {
		return
	}
	stdout, stderr := io.Writer(w), io.Writer(w)
	if options.Follow {
		f := flusher{w, http.NewResponseController(w)}
		stdout, stderr = f, f
		// The client learns at once that the log is there, even if it is empty.
		_ = f.control.Flush()
	}
	switch query.Get("stream") {
	case "Stdout":
		stderr = io.Discard
	case "Stderr":
		stdout = io.Discard
	}
	running := func() bool {
		now, err := s.containers.Status(r.Context(), status.ID)
		return err == nil && now.State == container.Running
	}
	if err := log.Read(r.Context(), status.LogPath, options, running, stdout, stderr); err != nil {
		s.logger.Debug("log not read", "container", status.ID, "err", err)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("log of container %s: %w", status.Name, ErrNotFound)
		}
		refuse(w, err)
	}
}

func logOptions(query url.Values, now time.Time) (log.Options, error) {
	o := log.Options{Follow: isTrue(query.Get("follow")), Timestamps: isTrue(query.Get("timestamps"))}
	for name, field := range map[string]**int64{"tailLines": &o.TailLines, "limitBytes": &o.LimitBytes} {
		n, err := number(query, name)
		if err != nil {
			return log.Options{}, err
		}
		*field = n
	}
	seconds, err := number(query, "sinceSeconds")
	if err != nil {
		return log.Options{}, err
	}
	if seconds != nil {
		o.Since = now.Add(-time.Duration(*seconds) * time.Second)
	}
	if at := query.Get("sinceTime"); at != "" {
		if o.Since, err = time.Parse(time.RFC3339, at); err != nil {
			return log.Options{}, fmt.Errorf("sinceTime: %w", err)
		}
	}
	return o, nil
}

func number(query url.Values, name string) (*int64, error) {
	value := query.Get(name)
	if value == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("%s: %q is not a number of 0 or more", name, value)
	}
	return &n, nil
}
