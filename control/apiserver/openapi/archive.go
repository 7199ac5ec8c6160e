package openapi

import (
	"archive/zip"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"strings"
)

// archive is a zip file that stores every document compressed by gzip, with its ETag as the comment. It stays in the read-only data
// of the binary: a document is served from there, and pages that nobody reads are not loaded.
//
//go:embed openapi.zip
var archive string

// document is one document in one encoding.
type document struct {
	// etag identifies the document in all its encodings, without quotes.
	etag string
	// compressed is the document as gzip made it. It aliases the archive.
	compressed string
}

// documents are the documents of the archive by name: the path below /openapi and the encoding as extension ("v3/apis/apps/v1.json").
type documents map[string]document

// readArchive reads the list of documents, not their content.
func readArchive(content string) (documents, error) {
	r, err := zip.NewReader(strings.NewReader(content), int64(len(content)))
	if err != nil {
		return nil, fmt.Errorf("archive of OpenAPI documents: %w", err)
	}
	found := make(documents, len(r.File))
	for _, file := range r.File {
		offset, err := file.DataOffset()
		if err != nil {
			return nil, fmt.Errorf("archive of OpenAPI documents: %s: %w", file.Name, err)
		}
		end := offset + int64(file.CompressedSize64)
		if file.Method != zip.Store || end > int64(len(content)) {
			return nil, fmt.Errorf("archive of OpenAPI documents: %s is not stored as it is", file.Name)
		}
		found[strings.TrimSuffix(file.Name, ".gz")] = document{etag: file.Comment, compressed: content[offset:end]}
	}
	return found, nil
}

// plain returns the document uncompressed. The caller owns it.
func (d document) plain() ([]byte, error) {
	r, err := gzip.NewReader(strings.NewReader(d.compressed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
