package log

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCopierSplitsLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pod", "0.log")
	w, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", maxLine+10)
	c := NewCopier(w, map[string]io.ReadCloser{"stdout": io.NopCloser(strings.NewReader("one\n\n" + long + "\nend"))})
	<-c.Done()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(data)) {
		at, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
			t.Error(err)
		}
		got = append(got, rest)
	}
	want := []string{"stdout F one", "stdout F ", "stdout P " + long[:maxLine], "stdout F " + long[maxLine:], "stdout P end"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("%d lines: %.200q", len(got), got)
	}
	var out bytes.Buffer
	if err := Read(t.Context(), path, Options{}, nil, &out, io.Discard); err != nil || out.String() != "one\n\n"+long+"\nend" {
		t.Errorf("read back %d bytes, %v", out.Len(), err)
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	w, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.maxSize, w.maxFiles = 100, 3
	for range 20 {
		if err := w.Line(time.Now(), "stdout", false, []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	found, err := filepath.Glob(path + "*")
	if err != nil || len(found) != 3 {
		t.Errorf("files %v, %v", found, err)
	}
}
