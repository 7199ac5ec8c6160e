package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// image makes an image of files of this machine, given by their place in it, and imports it into the node. Libraries of dynamic
// programs come along.
func image(t *testing.T, tag string, files map[string]string) {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	done := map[string]bool{}
	for at, file := range files {
		addFile(t, w, done, at, file)
		for _, lib := range libraries(file) {
			addFile(t, w, done, lib, lib)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil },
		tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		t.Fatal(err)
	}
	// containerd passes over images of another platform, also of none.
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH})
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, l); err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(archive, ref, img); err != nil {
		t.Fatal(err)
	}
	must(t)(shared.skep("image", "import", archive))
	t.Cleanup(func() { must(t)(shared.skep("image", "rm", tag)) })
}

// addFile adds what the file leads to, once.
func addFile(t *testing.T, w *tar.Writer, done map[string]bool, at, file string) {
	t.Helper()
	if done[at] {
		return
	}
	done[at] = true
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(at, "/"), Mode: 0o755, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
}

// libraries are those that a dynamic program loads, with its loader; none for other files.
func libraries(file string) []string {
	out, err := exec.Command("ldd", file).Output()
	if err != nil {
		return nil
	}
	var libs []string
	for _, field := range strings.Fields(string(out)) {
		if strings.HasPrefix(field, "/") {
			libs = append(libs, field)
		}
	}
	return libs
}
