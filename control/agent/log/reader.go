package log

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
)

// Options select what Read returns; nil and zero values select all.
type Options struct {
	TailLines  *int64
	LimitBytes *int64
	// Since drops lines written before it.
	Since      time.Time
	Timestamps bool
	// Follow waits for more lines until the container has ended or the context does.
	Follow bool
}

// Read copies the log at path to stdout and stderr. running tells whether the container may still write; it is asked only
// when following. Nothing is returned when the context ends.
func Read(ctx context.Context, path string, o Options, running func() bool, stdout, stderr io.Writer) error {
	err := logs.ReadLogs(ctx, path, path, &logs.LogOptions{
		TailLines: o.TailLines, LimitBytes: o.LimitBytes, Since: o.Since, Timestamp: o.Timestamps, Follow: o.Follow,
	}, liveness{running: running}, stdout, stderr)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Wake makes followers of the log look at it, and so notice that the container has ended, without waiting for their timeout.
func Wake(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	now := time.Now()
	return os.Chtimes(path, now, now)
}

// liveness is the one method of a CRI runtime that the upstream reader asks.
type liveness struct {
	internalapi.RuntimeService
	running func() bool
}

// ContainerStatus says whether the container runs.
func (l liveness) ContainerStatus(context.Context, string, bool) (*runtimeapi.ContainerStatusResponse, error) {
	state := runtimeapi.ContainerState_CONTAINER_EXITED
	if l.running != nil && l.running() {
		state = runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{State: state}}, nil
}
