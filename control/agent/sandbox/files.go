package sandbox

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// The limits of resolv.conf.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// Resolver is the content of a resolv.conf.
type Resolver struct{ Nameservers, Searches, Options []string }

// ParseResolver reads a resolv.conf. Lines that it does not know are left out.
func ParseResolver(text string) Resolver {
	var r Resolver
	for line := range strings.Lines(text) {
		switch f := strings.Fields(line); {
		case len(f) == 0:
		case f[0] == "nameserver" && len(f) > 1:
			r.Nameservers = append(r.Nameservers, f[1])
		case f[0] == "search":
			r.Searches = f[1:]
		case f[0] == "options":
			r.Options = append(r.Options, f[1:]...)
		}
	}
	return r
}

// ResolverFor computes a pod's resolver from its policy, its own wishes, the cluster's DNS and the host's resolver.
func ResolverFor(p *corev1.Pod, host Resolver, dns netip.Addr, zone string) Resolver {
	var r Resolver
	switch policy := p.Spec.DNSPolicy; {
	case policy == corev1.DNSNone:
	case policy == corev1.DNSDefault, policy == corev1.DNSClusterFirst && p.Spec.HostNetwork, !dns.IsValid():
		r = host
	default:
		r.Nameservers = []string{dns.String()}
		r.Searches = unique([]string{p.Namespace + ".svc." + zone, "svc." + zone, zone}, host.Searches)
		r.Options = []string{"ndots:5"}
	}
	if c := p.Spec.DNSConfig; c != nil {
		r.Nameservers = unique(r.Nameservers, c.Nameservers)
		r.Searches = unique(r.Searches, c.Searches)
		r.Options = mergeOptions(r.Options, c.Options)
	}
	r.Nameservers = r.Nameservers[:min(len(r.Nameservers), maxNameservers)]
	r.Searches = r.Searches[:min(len(r.Searches), maxSearches)]
	for len(strings.Join(r.Searches, " ")) > maxSearchChars {
		r.Searches = r.Searches[:len(r.Searches)-1]
	}
	return r
}

func unique(lists ...[]string) []string {
	var out []string
	for _, s := range slices.Concat(lists...) {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func mergeOptions(have []string, want []corev1.PodDNSConfigOption) []string {
	out := slices.Clone(have)
	for _, o := range want {
		out = slices.DeleteFunc(out, func(s string) bool { name, _, _ := strings.Cut(s, ":"); return name == o.Name })
		if o.Value != nil && *o.Value != "" {
			out = append(out, o.Name+":"+*o.Value)
		} else {
			out = append(out, o.Name)
		}
	}
	return out
}

// String is the resolv.conf.
func (r Resolver) String() string {
	var b strings.Builder
	if len(r.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.Searches, " "))
	}
	for _, n := range r.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", n)
	}
	if len(r.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.Options, " "))
	}
	return b.String()
}

// Hosts is a pod's /etc/hosts. For a pod in the host's network it is the host's with the pod's aliases.
func Hosts(p *corev1.Pod, ips []netip.Addr, hostname, domain, hostFile string) string {
	var b strings.Builder
	if p.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n" + hostFile)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, hostname, domain, hostname)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
			}
		}
	}
	if len(p.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range p.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.String()
}

// Names are a pod's hostname, as the kernel shows it, and its domain in the cluster, empty for none.
func Names(p *corev1.Pod, zone string) (hostname, domain string) {
	hostname = p.Name
	if p.Spec.Hostname != "" {
		hostname = p.Spec.Hostname
	}
	if p.Spec.HostnameOverride != nil {
		return *p.Spec.HostnameOverride, ""
	}
	hostname = strings.TrimRight(hostname[:min(len(hostname), 63)], "-.")
	if p.Spec.Subdomain != "" {
		domain = p.Spec.Subdomain + "." + p.Namespace + ".svc." + zone
	}
	return hostname, domain
}
