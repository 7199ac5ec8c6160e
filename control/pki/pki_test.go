package pki

import (
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func ensure(t *testing.T, dir string, ips ...string) *Bundle {
	t.Helper()
	names := Names{DNS: []string{"kubernetes.default.svc", "localhost"}}
	for _, ip := range ips {
		names.IPs = append(names.IPs, netip.MustParseAddr(ip))
	}
	b, err := Ensure(dir, names)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEnsureKeepsWhatFits(t *testing.T) {
	dir := t.TempDir()
	a := ensure(t, dir, "127.0.0.1")
	b := ensure(t, dir, "127.0.0.1")
	if string(a.Server.Cert) != string(b.Server.Cert) || string(a.EncryptionKey) != string(b.EncryptionKey) {
		t.Error("a second Ensure made new keys")
	}
	c := ensure(t, dir, "127.0.0.1", "10.0.0.7")
	if string(c.Server.Cert) == string(b.Server.Cert) {
		t.Error("the server certificate lacks the new address")
	}
	if string(c.CA.Cert) != string(a.CA.Cert) || string(c.Admin.Cert) != string(a.Admin.Cert) {
		t.Error("a new address replaced more than the server certificate")
	}
}

func TestCertificatesVerify(t *testing.T) {
	b := ensure(t, t.TempDir(), "127.0.0.1")
	node, err := b.EnsureNode("n1", []netip.Addr{netip.MustParseAddr("10.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b.CA.Cert)
	for name, c := range map[string]struct {
		pair    Pair
		usage   x509.ExtKeyUsage
		dnsName string
	}{
		"server":      {b.Server, x509.ExtKeyUsageServerAuth, "kubernetes.default.svc"},
		"server ip":   {b.Server, x509.ExtKeyUsageServerAuth, "127.0.0.1"},
		"admin":       {b.Admin, x509.ExtKeyUsageClientAuth, ""},
		"node":        {node.Client, x509.ExtKeyUsageClientAuth, ""},
		"node server": {node.Server, x509.ExtKeyUsageServerAuth, "10.0.0.1"},
	} {
		cert, err := parseCert(c.pair.CertFile, c.pair.Cert)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: c.dnsName, KeyUsages: []x509.ExtKeyUsage{c.usage}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFilesAreRootOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	b := ensure(t, dir)
	if err := b.WriteKubeconfig(filepath.Join(dir, "kubeconfig"), "https://127.0.0.1:6443", "admin", b.Admin); err != nil {
		t.Fatal(err)
	}
	if _, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "kubeconfig")); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
}

func TestDamagedKeyIsNamed(t *testing.T) {
	dir := t.TempDir()
	ensure(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Ensure(dir, Names{})
	if err == nil || !strings.Contains(err.Error(), "ca.key") {
		t.Errorf("error %v does not name the damaged file", err)
	}
}
