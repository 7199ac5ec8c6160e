package volume

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	text := func(s string) File { return File{Data: []byte(s), Mode: 0o644} }
	var before string
	for i, files := range []map[string]File{
		{"a": text("1"), "d/b": text("2")},
		{"a": text("1"), "d/b": text("2")},
		{"a": text("3"), "c": text("4")},
		{},
	} {
		if err := Write(dir, files, nil); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		for name, f := range files {
			if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != string(f.Data) {
				t.Errorf("step %d: %s is %q, %v", i, name, data, err)
			}
		}
		shown, err := filepath.Glob(filepath.Join(dir, "[a-z]*"))
		if err != nil || i == 2 && len(shown) != 2 || i == 3 && len(shown) != 0 {
			t.Errorf("step %d: shows %v, %v", i, shown, err)
		}
		after, err := os.Readlink(filepath.Join(dir, dataLink))
		if err != nil || i == 1 && after != before || i == 2 && after == before {
			t.Errorf("step %d: data at %s after %s, %v", i, after, before, err)
		}
		before = after
	}
}

func TestWriteStaysInside(t *testing.T) {
	if err := Write(t.TempDir(), map[string]File{"../x": {Data: []byte("1"), Mode: 0o644}}, nil); err == nil {
		t.Error("a path that leaves the volume was written")
	}
}
