package main

import (
	"archive/zip"
	"bytes"
	"fmt"

	"github.com/klauspost/compress/gzip"
)

// pack makes the archive: a zip file that stores each document compressed by gzip, so that the server hands an entry out as it is. An
// entry's comment is the document's ETag. The same documents make the same bytes: there is no time in it, and the compressor is one
// that go.mod pins rather than that of the Go release.
func pack(documents []document) ([]byte, error) {
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	for _, d := range documents {
		entry, err := w.CreateHeader(&zip.FileHeader{Name: d.name + ".gz", Comment: d.etag, Method: zip.Store})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		compressed, err := gzip.NewWriterLevel(entry, gzip.BestCompression)
		if err != nil {
			return nil, err
		}
		if _, err := compressed.Write(d.content); err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		if err := compressed.Close(); err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
	}
	err := w.Close()
	return archive.Bytes(), err
}
