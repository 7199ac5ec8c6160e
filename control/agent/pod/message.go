package pod

import (
	"bytes"
	"io"
	"os"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/container"
)

// The bounds of a termination message.
const (
	maxMessage  = 4096 // bytes of the file
	maxLogTail  = 2048 // bytes of the log
	maxLogLines = 80
)

// terminationMessage is what a dead container left to say: its termination file, or the end of its log if it failed, said
// nothing, and asks for that.
func terminationMessage(c *corev1.Container, s container.Status) string {
	if s.TerminationMessagePath != "" {
		if m := tail(s.TerminationMessagePath, maxMessage); len(m) > 0 {
			return string(m)
		}
	}
	if c == nil || c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError || s.ExitCode == 0 {
		return ""
	}
	return logTail(tail(s.LogPath, 4*maxLogTail))
}

// tail reads the last most bytes of a file; what cannot be read is empty.
func tail(path string, most int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return nil
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil
	}
	return data
}

// logTail takes the text out of lines in CRI format: time, stream, tag, text.
func logTail(data []byte) string {
	lines := bytes.SplitAfter(data, []byte("\n"))
	var out []byte
	count := 0
	for i := len(lines) - 1; i >= 0 && count < maxLogLines; i-- {
		fields := bytes.SplitN(lines[i], []byte(" "), 4)
		if len(fields) < 4 {
			continue
		}
		text := fields[3]
		if string(fields[2]) == "P" {
			text = bytes.TrimSuffix(text, []byte("\n"))
		}
		if len(out)+len(text) > maxLogTail {
			break
		}
		out = append(append([]byte{}, text...), out...)
		count++
	}
	return string(out)
}
