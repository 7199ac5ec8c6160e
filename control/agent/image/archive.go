package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Spec describes an image that Archive makes.
type Spec struct {
	// Binary is the path of a static program on this machine; it is the only file of the image, at Target.
	Binary, Target string
	// Links are symbolic links to Target by absolute path, for programs that act by their name.
	Links []string
	// Entrypoint starts the image; empty means Target. Cmd are its default arguments.
	Entrypoint, Cmd []string
	// User is the image's USER, empty for root. Env are "NAME=value".
	User string
	Env  []string
	// Tags are the references under which the image is imported.
	Tags []string
}

// Archive writes an OCI image archive (a tar file that every runtime can import) with one uncompressed layer. The same
// spec and binary give the same bytes.
func Archive(w io.Writer, spec Spec) error {
	size, diffID, err := sumLayer(spec)
	if err != nil {
		return err
	}
	config, err := json.Marshal(configOf(spec, diffID))
	if err != nil {
		return fmt.Errorf("image config: %w", err)
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: describe(ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID, Size: size}},
	})
	if err != nil {
		return fmt.Errorf("image manifest: %w", err)
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, tag := range spec.Tags {
		d := describe(ocispec.MediaTypeImageManifest, manifest)
		d.Annotations = map[string]string{"io.containerd.image.name": tag, ocispec.AnnotationRefName: tag}
		index.Manifests = append(index.Manifests, d)
	}
	top, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("image index: %w", err)
	}
	layout := []byte(`{"imageLayoutVersion":"1.0.0"}`)
	tw := tar.NewWriter(w)
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"oci-layout", layout}, {"index.json", top}, {blob(manifest), manifest}, {blob(config), config},
	} {
		if err := writeFile(tw, f.name, 0o644, int64(len(f.data)), bytes.NewReader(f.data)); err != nil {
			return err
		}
	}
	if err := tw.WriteHeader(&tar.Header{Name: "blobs/sha256/" + diffID.Encoded(), Mode: 0o644, Size: size, Typeflag: tar.TypeReg}); err != nil {
		return fmt.Errorf("image layer: %w", err)
	}
	if err := writeLayer(tw, spec); err != nil {
		return err
	}
	return tw.Close()
}

func configOf(spec Spec, diffID digest.Digest) ocispec.Image {
	entry := spec.Entrypoint
	if len(entry) == 0 {
		entry = []string{spec.Target}
	}
	env := append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, spec.Env...)
	return ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   ocispec.ImageConfig{Entrypoint: entry, Cmd: spec.Cmd, Env: env, User: spec.User},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
	}
}

// sumLayer computes the layer's size and digest, without holding it in memory.
func sumLayer(spec Spec) (int64, digest.Digest, error) {
	h := sha256.New()
	n := &counter{w: h}
	if err := writeLayer(n, spec); err != nil {
		return 0, "", err
	}
	return n.n, digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(h.Sum(nil))), nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.w.Write(p)
}

// writeLayer writes the root file system: the directories that runtimes mount on, a passwd file, and the program.
func writeLayer(w io.Writer, spec Spec) error {
	f, err := os.Open(spec.Binary)
	if err != nil {
		return fmt.Errorf("image binary: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("image binary: %w", err)
	}
	tw := tar.NewWriter(w)
	for _, dir := range []string{"bin", "dev", "etc", "proc", "sys", "tmp", "usr", "usr/bin", "var", "var/run"} {
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		if err := tw.WriteHeader(&tar.Header{Name: dir + "/", Mode: mode, Typeflag: tar.TypeDir}); err != nil {
			return fmt.Errorf("image layer: %w", err)
		}
	}
	const passwd = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
	if err := writeFile(tw, "etc/passwd", 0o644, int64(len(passwd)), strings.NewReader(passwd)); err != nil {
		return err
	}
	if err := writeFile(tw, spec.Target[1:], 0o755, st.Size(), f); err != nil {
		return err
	}
	for _, link := range spec.Links {
		h := &tar.Header{Name: link[1:], Linkname: spec.Target, Mode: 0o777, Typeflag: tar.TypeSymlink}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("image layer: %w", err)
		}
	}
	return tw.Close()
}

func writeFile(tw *tar.Writer, name string, mode, size int64, r io.Reader) error {
	if err := tw.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: size, Typeflag: tar.TypeReg}); err != nil {
		return fmt.Errorf("image file %s: %w", name, err)
	}
	if _, err := io.CopyN(tw, r, size); err != nil {
		return fmt.Errorf("image file %s: %w", name, err)
	}
	return nil
}

func describe(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func blob(data []byte) string { return "blobs/sha256/" + digest.FromBytes(data).Encoded() }
