package sandbox

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestResolver(t *testing.T) {
	host := ParseResolver("# made by hand\nnameserver 192.0.2.53\nsearch example.com\noptions timeout:1\n")
	two := "2"
	for _, row := range []struct {
		name string
		spec corev1.PodSpec
		want string
	}{
		{"cluster first", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst},
			"search ns.svc.cluster.local svc.cluster.local cluster.local example.com\nnameserver 10.96.0.10\noptions ndots:5\n"},
		{"default", corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, "search example.com\nnameserver 192.0.2.53\noptions timeout:1\n"},
		{"cluster first in the host's network", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true},
			"search example.com\nnameserver 192.0.2.53\noptions timeout:1\n"},
		{"cluster first with host network", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirstWithHostNet, HostNetwork: true},
			"search ns.svc.cluster.local svc.cluster.local cluster.local example.com\nnameserver 10.96.0.10\noptions ndots:5\n"},
		{"none", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{
			Nameservers: []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}, Searches: []string{"a.test", "b.test"},
			Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}},
		}}, "search a.test b.test\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\noptions ndots:2 edns0\n"},
		{"merged", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, DNSConfig: &corev1.PodDNSConfig{
			Nameservers: []string{"10.96.0.10", "192.0.2.1"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}},
		}}, "search ns.svc.cluster.local svc.cluster.local cluster.local example.com\nnameserver 10.96.0.10\nnameserver 192.0.2.1\noptions ndots:2\n"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: row.spec}
		got := ResolverFor(p, host, netip.MustParseAddr("10.96.0.10"), "cluster.local").String()
		if got != row.want {
			t.Errorf("%s:\n%s\nwant\n%s", row.name, got, row.want)
		}
	}
}

func TestHosts(t *testing.T) {
	ips := []netip.Addr{netip.MustParseAddr("10.244.0.7")}
	aliases := []corev1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"one", "two"}}}
	const head = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
	const tail = "\n# Entries added by HostAliases.\n192.0.2.9\tone\ttwo\n"
	for _, row := range []struct {
		name, domain string
		spec         corev1.PodSpec
		want         string
	}{
		{"plain", "", corev1.PodSpec{}, head + "10.244.0.7\tweb\n"},
		{"domain", "sub.ns.svc.cluster.local", corev1.PodSpec{}, head + "10.244.0.7\tweb.sub.ns.svc.cluster.local\tweb\n"},
		{"aliases", "", corev1.PodSpec{HostAliases: aliases}, head + "10.244.0.7\tweb\n" + tail},
		{"host network", "", corev1.PodSpec{HostNetwork: true, HostAliases: aliases},
			"# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n" + tail},
	} {
		if got := Hosts(&corev1.Pod{Spec: row.spec}, ips, "web", row.domain, "127.0.0.1 localhost\n"); got != row.want {
			t.Errorf("%s:\n%s\nwant\n%s", row.name, got, row.want)
		}
	}
}

func TestNames(t *testing.T) {
	for _, row := range []struct {
		spec             corev1.PodSpec
		hostname, domain string
	}{
		{corev1.PodSpec{}, "web-1", ""},
		{corev1.PodSpec{Hostname: "h", Subdomain: "s"}, "h", "s.ns.svc.cluster.local"},
		{corev1.PodSpec{Subdomain: "s"}, "web-1", "s.ns.svc.cluster.local"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-1"}, Spec: row.spec}
		if h, d := Names(p, "cluster.local"); h != row.hostname || d != row.domain {
			t.Errorf("%+v: %q %q, want %q %q", row.spec, h, d, row.hostname, row.domain)
		}
	}
}
