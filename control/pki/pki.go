// Package pki makes and keeps the cluster's own keys: the certificate authority, the certificates of server, admin and
// nodes, the key that signs ServiceAccount tokens, and the key that encrypts Secrets at rest. Everything is a file in one
// directory that root alone can read; files are written to a temporary name and renamed, so a crash leaves no half a key.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	// renewBefore is how long before its end a leaf certificate is replaced at start.
	renewBefore = 90 * 24 * time.Hour
	// backdate tolerates clocks that are behind ours.
	backdate = time.Hour
)

// Pair is a certificate with its private key, both in PEM, and the files that hold them.
type Pair struct {
	Cert, Key         []byte
	CertFile, KeyFile string
}

// Bundle is all key material of a cluster, loaded.
type Bundle struct {
	// Dir holds the files, mode 0700.
	Dir string
	// CA signs everything else; clients trust it.
	CA Pair
	// Server is the API server's serving certificate.
	Server Pair
	// Admin is a client certificate of group system:masters.
	Admin Pair
	// NodeClient is what the API server shows to node agents; its name is NodeClientName.
	NodeClient Pair
	// ServiceAccountKey is the PEM of the EC key that signs ServiceAccount tokens.
	ServiceAccountKey     []byte
	ServiceAccountKeyFile string
	// EncryptionKey is 32 random bytes for Secrets at rest.
	EncryptionKey []byte

	authority *authority
}

// NodeClientName is the common name by which node agents know the API server.
const NodeClientName = "kube-apiserver-kubelet-client"

// Names are what the API server's certificate is valid for.
type Names struct {
	DNS []string
	IPs []netip.Addr
}

type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Ensure loads the key material in dir and makes what is missing, expired soon, or not valid for names. A file that cannot
// be parsed is an error that names it: a damaged CA is never replaced silently, since every client would be locked out.
func Ensure(dir string, names Names) (*Bundle, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create key directory: %w", err)
	}
	b := &Bundle{Dir: dir}
	if err := b.ensureAuthority(); err != nil {
		return nil, err
	}
	leaves := []struct {
		name string
		into *Pair
		spec leaf
	}{
		{"server", &b.Server, leaf{commonName: "kube-apiserver", names: names, server: true}},
		{"admin", &b.Admin, leaf{commonName: "kubernetes-admin", groups: []string{"system:masters"}}},
		{"node-client", &b.NodeClient, leaf{commonName: NodeClientName, groups: []string{"system:masters"}}},
	}
	for _, l := range leaves {
		p, err := b.ensureLeaf(l.name, l.spec)
		if err != nil {
			return nil, err
		}
		*l.into = p
	}
	var err error
	b.ServiceAccountKeyFile = filepath.Join(dir, "service-account.key")
	if b.ServiceAccountKey, err = ensureFile(b.ServiceAccountKeyFile, newKeyPEM); err != nil {
		return nil, err
	}
	b.EncryptionKey, err = ensureFile(filepath.Join(dir, "encryption.key"), func() ([]byte, error) {
		k := make([]byte, 32)
		_, err := rand.Read(k)
		return k, err
	})
	if err == nil && len(b.EncryptionKey) != 32 {
		err = fmt.Errorf("%s holds %d bytes, not 32: restore it from a backup, without it the stored Secrets cannot be read",
			filepath.Join(dir, "encryption.key"), len(b.EncryptionKey))
	}
	return b, err
}

// Node is the identity of one node: a client certificate (system:node:NAME of group system:nodes) and the serving
// certificate of its agent.
type Node struct {
	Client, Server Pair
}

// EnsureNode loads or makes the certificates of the node of the given name and addresses.
func (b *Bundle) EnsureNode(name string, ips []netip.Addr) (*Node, error) {
	var n Node
	var err error
	client, server := nodeLeaves(name, ips)
	if n.Client, err = b.ensureLeaf("node-"+name, client); err != nil {
		return nil, err
	}
	if n.Server, err = b.ensureLeaf("node-"+name+"-server", server); err != nil {
		return nil, err
	}
	return &n, nil
}

func (b *Bundle) ensureAuthority() error {
	certFile, keyFile := filepath.Join(b.Dir, "ca.crt"), filepath.Join(b.Dir, "ca.key")
	keyPEM, err := ensureFile(keyFile, newKeyPEM)
	if err != nil {
		return err
	}
	key, err := parseKey(keyFile, keyPEM)
	if err != nil {
		return err
	}
	certPEM, err := ensureFile(certFile, func() ([]byte, error) {
		t := template(pkix.Name{CommonName: "skep-ca"}, caLife)
		t.IsCA, t.BasicConstraintsValid = true, true
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
		return sign(t, t, key.Public(), key)
	})
	if err != nil {
		return err
	}
	cert, err := parseCert(certFile, certPEM)
	if err != nil {
		return err
	}
	b.authority = &authority{cert: cert, key: key}
	b.CA = Pair{Cert: certPEM, Key: keyPEM, CertFile: certFile, KeyFile: keyFile}
	return nil
}

// leaf says what a certificate is for.
type leaf struct {
	commonName string
	groups     []string
	names      Names
	server     bool
}

// ensureLeaf returns the pair called name, signed anew if it is missing, near its end, of another CA, or lacks a name.
func (b *Bundle) ensureLeaf(name string, want leaf) (Pair, error) {
	p := Pair{CertFile: filepath.Join(b.Dir, name+".crt"), KeyFile: filepath.Join(b.Dir, name+".key")}
	var err error
	if p.Key, err = ensureFile(p.KeyFile, newKeyPEM); err != nil {
		return p, err
	}
	key, err := parseKey(p.KeyFile, p.Key)
	if err != nil {
		return p, err
	}
	if p.Cert, err = os.ReadFile(p.CertFile); err == nil {
		complete := !want.server || bytes.HasSuffix(p.Cert, b.CA.Cert)
		if cert, err := parseCert(p.CertFile, p.Cert); err == nil && complete && b.fits(cert, want, key) {
			return p, nil
		}
	}
	if p.Cert, err = b.signLeaf(want, key.Public()); err != nil {
		return p, fmt.Errorf("sign certificate %s: %w", name, err)
	}
	return p, writeFile(p.CertFile, p.Cert)
}

// signLeaf signs a certificate. A server's is followed by the CA's own, by whose hash a node that joins knows whom it talks to.
func (b *Bundle) signLeaf(want leaf, key crypto.PublicKey) ([]byte, error) {
	t := template(pkix.Name{CommonName: want.commonName, Organization: want.groups}, leafLife)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if !want.server {
		return sign(t, b.authority.cert, key, b.authority.key)
	}
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	t.DNSNames = want.names.DNS
	for _, ip := range want.names.IPs {
		t.IPAddresses = append(t.IPAddresses, net.IP(ip.Unmap().AsSlice()))
	}
	cert, err := sign(t, b.authority.cert, key, b.authority.key)
	return append(cert, b.CA.Cert...), err
}

// fits says whether cert may go on serving as want.
func (b *Bundle) fits(cert *x509.Certificate, want leaf, key crypto.Signer) bool {
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || !pub.Equal(key.Public()) || cert.CheckSignatureFrom(b.authority.cert) != nil {
		return false
	}
	if time.Until(cert.NotAfter) < renewBefore || cert.Subject.CommonName != want.commonName {
		return false
	}
	for _, n := range want.names.DNS {
		if !slices.Contains(cert.DNSNames, n) {
			return false
		}
	}
	for _, ip := range want.names.IPs {
		if !slices.ContainsFunc(cert.IPAddresses, func(have net.IP) bool { return have.Equal(ip.Unmap().AsSlice()) }) {
			return false
		}
	}
	return true
}

func template(subject pkix.Name, life time.Duration) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic("crypto/rand failed: " + err.Error()) // documented never to happen since Go 1.24
	}
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: now.Add(-backdate), NotAfter: now.Add(life)}
}

func sign(t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func newKeyPEM() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func parseKey(file string, data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM key: restore it from a backup", file)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s holds no EC key: restore it from a backup: %w", file, err)
	}
	return key, nil
}

func parseCert(file string, data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM certificate: restore it from a backup", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return cert, nil
}

// ensureFile returns the content of file, first making it with create if it does not exist.
func ensureFile(file string, create func() ([]byte, error)) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	if data, err = create(); err != nil {
		return nil, fmt.Errorf("create %s: %w", file, err)
	}
	return data, writeFile(file, data)
}

// writeFile writes data to a new file of mode 0600 and renames it to file.
func writeFile(file string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
