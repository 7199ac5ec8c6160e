package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// hashPrefix names the function by which a CA is known.
const hashPrefix = "sha256:"

// Hash is how a CA is named to those who have yet to trust it: over its public key, so that a renewed certificate has the same.
func Hash(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return hashPrefix + hex.EncodeToString(sum[:])
}

// HashPEM is the Hash of a CA certificate in PEM.
func HashPEM(ca []byte) (string, error) {
	cert, err := parseCert("the CA", ca)
	if err != nil {
		return "", err
	}
	return Hash(cert), nil
}

func nodeLeaves(name string, ips []netip.Addr) (client, server leaf) {
	client = leaf{commonName: "system:node:" + name, groups: []string{"system:nodes"}}
	server = client
	server.names, server.server = Names{DNS: []string{name}, IPs: ips}, true
	return client, server
}

// SignNode signs both certificates of a node for the key of a certificate request in PEM. Of the request only the key counts;
// the caller has decided on name and addresses.
func (b *Bundle) SignNode(request []byte, name string, ips []netip.Addr) (client, server []byte, err error) {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, nil, errors.New("no PEM certificate request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, nil, fmt.Errorf("the requester does not have the key: %w", err)
	}
	clientLeaf, serverLeaf := nodeLeaves(name, ips)
	if client, err = b.signLeaf(clientLeaf, csr.PublicKey); err != nil {
		return nil, nil, err
	}
	server, err = b.signLeaf(serverLeaf, csr.PublicKey)
	return client, server, err
}

// Holds says whether the server's certificate is valid for the name or address: no node may get one that is.
func (b *Bundle) Holds(name string) bool {
	cert, err := parseCert(b.Server.CertFile, b.Server.Cert)
	return err != nil || cert.VerifyHostname(name) == nil
}

// EnsureKey loads or makes the private key in file and returns it with a certificate request for it, both in PEM.
func EnsureKey(file string) (key, request []byte, err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, nil, err
	}
	if key, err = ensureFile(file, newKeyPEM); err != nil {
		return nil, nil, err
	}
	signer, err := parseKey(file, key)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, signer)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// WriteFile writes data to a file of mode 0600, whole or not at all.
func WriteFile(file string, data []byte) error { return writeFile(file, data) }

// LoadPair reads a certificate and its key.
func LoadPair(certFile, keyFile string) (Pair, error) {
	p := Pair{CertFile: certFile, KeyFile: keyFile}
	var err error
	if p.Cert, err = os.ReadFile(certFile); err != nil {
		return p, err
	}
	p.Key, err = os.ReadFile(keyFile)
	return p, err
}

// Current reads the pair's files as they are now: they are replaced while it is in use.
func (p Pair) Current() (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil {
		return nil, err
	}
	return &cert, nil
}

// Renew says whether the certificate in the pair's file is to be replaced now.
func (p Pair) Renew() bool {
	cert, err := p.Current()
	return err != nil || time.Until(cert.Leaf.NotAfter) < renewBefore
}
