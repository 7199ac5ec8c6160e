// Package openapi serves the OpenAPI documents of the API, version 2 and 3, as clients of upstream know them. The documents are made
// when the project is built, by the program in generate, out of the Go types and of the routes that the API table results in; here they
// are only handed out, compressed as they are kept. Nothing is read before the first request and nothing is kept after one.
package openapi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/munnerz/goautoneg"
	"k8s.io/apiserver/pkg/server/mux"
)

//go:generate go run ./generate openapi.zip

// encoding is a form of a document: the subtype of application/ that clients ask for, the one they are answered, and the extension of
// the name in the archive.
type encoding struct {
	asked, answered, extension string
}

// encodingsV2 and encodingsV3 are in the order in which they are taken if a client has no preference. The names with an at sign are
// not valid media types; old clients ask for them.
func encodingsV2() []encoding {
	const protobuf = "com.github.proto-openapi.spec.v2.v1.0+protobuf"
	return []encoding{
		{"json", "json", ".json"},
		{protobuf, protobuf, ".pb"},
		{"com.github.proto-openapi.spec.v2@v1.0+protobuf", protobuf, ".pb"},
	}
}

func encodingsV3() []encoding {
	const protobuf = "com.github.proto-openapi.spec.v3.v1.0+protobuf"
	return []encoding{
		{"json", "json", ".json"},
		{protobuf, protobuf, ".pb"},
		{"com.github.proto-openapi.spec.v3@v1.0+protobuf", protobuf, ".pb"},
	}
}

// Install serves /openapi/v2, the list of documents at /openapi/v3, and each document at the path below that the list names.
func Install(paths *mux.PathRecorderMux) {
	s := &server{open: sync.OnceValues(func() (documents, error) { return readArchive(archive) })}
	paths.HandleFunc("/openapi/v2", s.serveV2)
	paths.HandleFunc("/openapi/v3", s.serveList)
	paths.HandlePrefix("/openapi/v3/", http.HandlerFunc(s.serveV3))
}

// server answers requests for documents. It is safe for concurrent use.
type server struct {
	// open returns the documents; it reads the archive's directory on its first call.
	open func() (documents, error)
}

// serveV2 serves the one document of version 2.
func (s *server) serveV2(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Accept")
	form, ok := negotiate(r.Header.Get("Accept"), encodingsV2())
	if !ok {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	if d, ok := s.find(w, r, "v2"+form.extension); ok {
		w.Header().Set("Content-Type", "application/"+form.answered)
		serve(w, r, d)
	}
}

// serveList serves the list of the documents of version 3.
func (s *server) serveList(w http.ResponseWriter, r *http.Request) {
	if d, ok := s.find(w, r, "v3.json"); ok {
		w.Header().Set("Content-Type", "application/json")
		serve(w, r, d)
	}
}

// serveV3 serves the document of one group-version. A request with the right hash may be cached for ever, one with another is sent to
// the right one.
func (s *server) serveV3(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Accept")
	form, ok := negotiate(r.Header.Get("Accept"), encodingsV3())
	if !ok {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	d, ok := s.find(w, r, strings.TrimPrefix(r.URL.Path, "/openapi/")+form.extension)
	if !ok {
		return
	}
	if hash := r.URL.Query().Get("hash"); hash != "" {
		if hash != d.etag {
			current := url.URL{Path: r.URL.Path, RawQuery: url.Values{"hash": {d.etag}}.Encode()}
			http.Redirect(w, r, current.String(), http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	w.Header().Set("Content-Type", "application/"+form.answered)
	serve(w, r, d)
}

// find returns a document, or answers the request that there is none.
func (s *server) find(w http.ResponseWriter, r *http.Request, name string) (document, bool) {
	all, err := s.open()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return document{}, false
	}
	d, ok := all[name]
	if !ok {
		http.NotFound(w, r)
	}
	return d, ok
}

// negotiate returns the encoding that an Accept header prefers.
func negotiate(accept string, encodings []encoding) (encoding, bool) {
	if accept == "" {
		accept = "*/*"
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		if clause.Type != "application" && clause.Type != "*" {
			continue
		}
		for _, e := range encodings {
			if clause.SubType == e.asked || clause.SubType == "*" {
				return e, true
			}
		}
	}
	return encoding{}, false
}

// serve answers with the document, or that the client has it. It is uncompressed only for a client that does not take gzip.
func serve(w http.ResponseWriter, r *http.Request, d document) {
	w.Header().Add("Vary", "Accept-Encoding")
	w.Header().Set("Etag", strconv.Quote(d.etag))
	var content io.ReadSeeker = strings.NewReader(d.compressed)
	if takesGzip(r.Header.Get("Accept-Encoding")) {
		w.Header().Set("Content-Encoding", "gzip")
	} else {
		plain, err := d.plain()
		if err != nil {
			http.Error(w, fmt.Sprintf("OpenAPI document: %v", err), http.StatusInternalServerError)
			return
		}
		content = bytes.NewReader(plain)
	}
	// A range would be one of the encoding that this request happens to get, so none is served.
	r = r.Clone(r.Context())
	r.Header.Del("Range")
	http.ServeContent(w, r, "", time.Time{}, content)
}

// takesGzip says whether an Accept-Encoding header allows gzip.
func takesGzip(header string) bool {
	for _, clause := range strings.Split(header, ",") {
		coding, parameter, _ := strings.Cut(clause, ";")
		if strings.TrimSpace(coding) != "gzip" {
			continue
		}
		weight, isWeight := strings.CutPrefix(strings.TrimSpace(parameter), "q=")
		q, err := strconv.ParseFloat(weight, 64)
		return !isWeight || err == nil && q > 0
	}
	return false
}
