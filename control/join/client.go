package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/skep-io/skep/control/pki"
)

// timeout bounds one request.
const timeout = 30 * time.Second

// Member is a machine on its way to being a node, and once it is one. What it got is kept in Dir, so that it need not ask again.
type Member struct {
	// Dir holds the node's key, its certificates and what it knows of the cluster.
	Dir string
	// Server is the URL of the API server.
	Server string
	// Name and Addresses are the node's.
	Name      string
	Addresses []netip.Addr
	// Token and CAHash are needed as long as there are no certificates.
	Token, CAHash string
}

// State is what a node got.
type State struct {
	Identity pki.Node
	CA       []byte
	Cluster  Cluster
	Server   string
}

// record is what is kept beside the certificates.
type record struct {
	Server  string  `json:"server"`
	Cluster Cluster `json:"cluster"`
}

func (m Member) file(name string) string { return filepath.Join(m.Dir, name) }

// ErrUnknown is returned where nothing is kept in Dir.
var ErrUnknown = errors.New("this machine has not joined a cluster")

// Load returns what is kept in Dir; ErrUnknown if that is nothing.
func (m Member) Load() (*State, error) {
	data, err := os.ReadFile(m.file("cluster.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", m.file("cluster.json"), err)
	}
	s := &State{Cluster: r.Cluster, Server: r.Server}
	if m.Server != "" {
		s.Server = m.Server
	}
	if s.CA, err = os.ReadFile(m.file("ca.crt")); err != nil {
		return nil, err
	}
	if s.Identity.Client, err = pki.LoadPair(m.file("node.crt"), m.file("node.key")); err != nil {
		return nil, err
	}
	s.Identity.Server, err = pki.LoadPair(m.file("node-server.crt"), m.file("node.key"))
	return s, err
}

// Ensure returns what is kept, or joins. A node whose certificate is near its end, or whose name or address is another now, asks
// anew, by its certificate where that still serves it. It tries until ctx ends or the server refuses.
func (m Member) Ensure(ctx context.Context) (*State, error) {
	kept, err := m.Load()
	if err != nil && !errors.Is(err, ErrUnknown) {
		return nil, err
	}
	if kept != nil && m.fits(kept) {
		return kept, nil
	}
	if kept == nil && (m.Token == "" || m.CAHash == "" || m.Server == "") {
		return nil, fmt.Errorf("%w: give --server, --token and --ca-hash as `skep token create` on the server prints them", ErrUnknown)
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		s, err := m.join(ctx, kept)
		var refused *refusal
		if err == nil || errors.As(err, &refused) || errors.Is(err, errStranger) {
			return s, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("join %s: %w", m.Server, err)
		case <-time.After(wait):
		}
	}
}

// fits says whether the kept certificates may go on serving.
func (m Member) fits(s *State) bool {
	cert, err := s.Identity.Server.Current()
	if err != nil || s.Identity.Client.Renew() || s.Identity.Server.Renew() || cert.Leaf.Subject.CommonName != nodeUserPrefix+m.Name {
		return false
	}
	for _, a := range m.Addresses {
		if cert.Leaf.VerifyHostname(a.String()) != nil {
			return false
		}
	}
	return true
}

// Renew gets new certificates with the ones at hand; the files are replaced.
func (m Member) Renew(ctx context.Context) error {
	kept, err := m.Load()
	if err != nil {
		return err
	}
	_, err = m.join(ctx, kept)
	return err
}

// join asks once and keeps the answer.
func (m Member) join(ctx context.Context, kept *State) (*State, error) {
	_, request, err := pki.EnsureKey(m.file("node.key"))
	if err != nil {
		return nil, err
	}
	if m.Server == "" {
		m.Server = kept.Server
	}
	answer, err := m.ask(ctx, kept, Request{Name: m.Name, Addresses: m.Addresses, CertificateRequest: request})
	if err != nil {
		return nil, err
	}
	if err := answer.Cluster.validate(); err != nil {
		return nil, err
	}
	about, err := json.Marshal(record{Server: m.Server, Cluster: answer.Cluster})
	if err != nil {
		return nil, err
	}
	// The record comes last: it says that the rest is there.
	for _, f := range []struct {
		name string
		data []byte
	}{{"ca.crt", answer.CA}, {"node.crt", answer.Client}, {"node-server.crt", answer.Server}, {"cluster.json", about}} {
		if err := pki.WriteFile(m.file(f.name), f.data); err != nil {
			return nil, err
		}
	}
	return m.Load()
}

// refusal is an answer that asking again will not change.
type refusal struct{ text string }

func (r *refusal) Error() string { return "the server refuses: " + r.text }

func (m Member) ask(ctx context.Context, kept *State, body Request) (*Response, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(m.Server, "/")+Path, bytes.NewReader(data))
	if err != nil {
		return nil, &refusal{err.Error()}
	}
	var verified []byte
	config, err := m.trust(req.URL, kept, &verified)
	if err != nil {
		return nil, err
	}
	// A certificate proves more than a token; one of another name, or that has ended, proves nothing.
	if len(config.Certificates) == 0 {
		req.Header.Set("Authorization", "Bearer "+m.Token)
	}
	req.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	answer, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	switch {
	case answer.StatusCode == http.StatusUnauthorized:
		return nil, &refusal{"the token is unknown or has expired; make another with `skep token create` on the server"}
	case answer.StatusCode/100 == 4:
		return nil, &refusal{strings.TrimSpace(string(text))}
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(text)))
	}
	r := &Response{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("answer of %s: %w", req.URL, err)
	}
	// What the handshake proved counts, not what the answer says.
	r.CA = verified
	return r, nil
}

// errStranger says that the server is not the one that was meant.
var errStranger = errors.New("the server is not of the cluster that --ca-hash names")

// trust makes a TLS configuration that accepts the cluster's server alone: by the CA that is kept, else by the CA's hash, looked
// for in what the server shows. The CA goes to verified. The kept certificate is shown while it names this node.
func (m Member) trust(server *url.URL, kept *State, verified *[]byte) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: server.Hostname()}
	if kept != nil {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(kept.CA) {
			return nil, fmt.Errorf("%s holds no certificate", m.file("ca.crt"))
		}
		config.RootCAs, *verified = roots, kept.CA
		cert, err := kept.Identity.Client.Current()
		if err == nil && time.Now().Before(cert.Leaf.NotAfter) && cert.Leaf.Subject.CommonName == nodeUserPrefix+m.Name {
			config.Certificates = []tls.Certificate{*cert}
		}
		return config, nil
	}
	// The usual verification needs the CA, which is yet to come; VerifyConnection does the whole of it.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		ca, err := verify(state.PeerCertificates, m.CAHash, server.Hostname())
		if err != nil {
			return err
		}
		*verified = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
		return nil
	}
	return config, nil
}

// verify finds the CA of that hash in the chain and checks that it vouches for the server's name or address.
func verify(chain []*x509.Certificate, hash, name string) (*x509.Certificate, error) {
	for _, ca := range chain {
		if !ca.IsCA || pki.Hash(ca) != hash {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errStranger, err)
		}
		return ca, nil
	}
	return nil, errStranger
}
