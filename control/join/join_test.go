package join

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skep-io/skep/control/pki"
)

func TestPermit(t *testing.T) {
	node := func(name, ip string, ready corev1.ConditionStatus) corev1.Node {
		n := corev1.Node{}
		n.Name = name
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
		return n
	}
	nodes := []corev1.Node{node("well", "192.0.2.1", corev1.ConditionTrue), node("silent", "192.0.2.2", corev1.ConditionUnknown)}
	bearer := &user.DefaultInfo{Name: "system:bootstrap:abcdef", Groups: []string{BootstrapGroup}}
	self := func(name string) user.Info {
		return &user.DefaultInfo{Name: "system:node:" + name, Groups: []string{NodesGroup}}
	}
	for _, c := range []struct {
		what     string
		who      user.Info
		name, ip string
		allowed  bool
	}{
		{"a token makes a new node", bearer, "new", "192.0.2.9", true},
		{"a token does not take over a node that is well", bearer, "well", "192.0.2.1", false},
		{"a token brings back a silent node", bearer, "silent", "192.0.2.2", true},
		{"nobody gets another node's address", bearer, "new", "192.0.2.1", false},
		{"a node renews its own", self("well"), "well", "192.0.2.1", true},
		{"a node may move", self("well"), "well", "192.0.2.7", true},
		{"a node is not another", self("well"), "silent", "192.0.2.2", false},
		{"a stranger is nobody", &user.DefaultInfo{Name: "jane", Groups: []string{user.AllAuthenticated}}, "new", "192.0.2.9", false},
	} {
		err := permit(c.who, Request{Name: c.name, Addresses: []netip.Addr{netip.MustParseAddr(c.ip)}}, nodes)
		if (err == nil) != c.allowed {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func bundle(t *testing.T) *pki.Bundle {
	t.Helper()
	keys, err := pki.Ensure(filepath.Join(t.TempDir(), "pki"), pki.Names{DNS: []string{"kubernetes", "localhost"}, IPs: []netip.Addr{netip.MustParseAddr("192.0.2.100")}})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestPermitNames(t *testing.T) {
	s := &Server{Keys: bundle(t), Cluster: Cluster{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}}
	for _, c := range []struct {
		name, ip string
		allowed  bool
	}{
		{"worker", "192.0.2.1", true},
		{"kubernetes", "192.0.2.1", false},
		{"worker", "192.0.2.100", false},
		{"worker", "127.0.0.1", false},
		{"worker", "10.96.0.1", false},
		{"worker", "10.244.3.1", false},
	} {
		err := s.permitNames(Request{Name: c.name, Addresses: []netip.Addr{netip.MustParseAddr(c.ip)}})
		if (err == nil) != c.allowed {
			t.Errorf("%s at %s: %v", c.name, c.ip, err)
		}
	}
}

func TestIdentify(t *testing.T) {
	now := time.Now()
	good := NewToken(time.Hour, "")
	other := good
	other.Secret = "0000000000000000"
	for _, c := range []struct {
		what    string
		change  func(*corev1.Secret)
		shown   Token
		at      time.Time
		allowed bool
	}{
		{"good", nil, good, now, true},
		{"wrong secret", nil, other, now, false},
		{"expired", nil, good, now.Add(2 * time.Hour), false},
		{"not for login", func(s *corev1.Secret) { delete(s.Data, keyUsage) }, good, now, false},
		{"of another type", func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, good, now, false},
		{"of another name", func(s *corev1.Secret) { s.Name = "x" }, good, now, false},
		{"expiration that cannot be read", func(s *corev1.Secret) { s.Data[keyExpiration] = []byte("soon") }, good, now, false},
	} {
		secret := good.Object()
		if c.change != nil {
			c.change(secret)
		}
		if _, ok, err := identify(secret, c.shown, c.at); err != nil || ok != c.allowed {
			t.Errorf("%s: %v, %v", c.what, ok, err)
		}
	}
}

func TestVerify(t *testing.T) {
	keys, foreign := bundle(t), bundle(t)
	chain := func(b *pki.Bundle) []*x509.Certificate {
		var list []*x509.Certificate
		for rest := b.Server.Cert; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				return list
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, cert)
		}
	}
	hash, err := pki.HashPEM(keys.CA.Cert)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		chain []*x509.Certificate
		name  string
		good  bool
	}{
		{"ours", chain(keys), "192.0.2.100", true},
		{"another address", chain(keys), "192.0.2.101", false},
		{"another cluster", chain(foreign), "192.0.2.100", false},
		{"another's certificate beside our CA", append(chain(foreign)[:1], chain(keys)[1]), "192.0.2.100", false},
		{"without the CA", chain(keys)[:1], "192.0.2.100", false},
	} {
		if _, err := verify(c.chain, hash, c.name); (err == nil) != c.good || err != nil && !errors.Is(err, errStranger) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}
