// Package config is the configuration of cluster DNS: YAML under the key "config" of the ConfigMap kube-system/skep-dns. It is
// decoded strictly, so that a misspelled field is an error that names it, and never half applied.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/skep-io/skep/dns/forward"
	"github.com/skep-io/skep/dns/wire"
)

// Where the configuration is.
const (
	Namespace = "kube-system"
	Name      = "skep-dns"
	Key       = "config"
)

// Config is the schema. Every field may be left out; Default says what then holds.
type Config struct {
	// TTL is how long clients may keep cluster answers, in seconds, 0 to 3600. Default 5.
	TTL *uint32 `json:"ttl,omitempty"`
	// Pods are the names a-b-c-d.<namespace>.pod.<domain>: insecure (default), verified or disabled.
	Pods string `json:"pods,omitempty"`
	// SearchPath answers the first name of a pod's search list with what the whole list would find. Default false.
	SearchPath bool `json:"searchPath,omitempty"`
	// KernelAnswers lets the kernel answer for cluster names, without the server. Default true. Rate limits, rules, rewrites and the
	// log are the server's: with any of these the kernel answers nothing, and with a search path it denies nothing.
	KernelAnswers *bool `json:"kernelAnswers,omitempty"`
	// Upstream servers for names outside the cluster.
	Upstream Upstream `json:"upstream,omitempty"`
	// Zones have servers of their own (stub domains), by domain name.
	Zones map[string]Upstream `json:"zones,omitempty"`
	// Cache of upstream answers.
	Cache Cache `json:"cache,omitempty"`
	// Hosts are addresses by name, before anything outside the cluster is asked.
	Hosts map[string][]string `json:"hosts,omitempty"`
	// Rewrite asks for another name; the first match counts.
	Rewrite []Rewrite `json:"rewrite,omitempty"`
	// RateLimit bounds the queries of each client address.
	RateLimit *RateLimit `json:"rateLimit,omitempty"`
	// ACL refuses names by the client's namespace; the first match counts.
	ACL []ACL `json:"acl,omitempty"`
	// DNS64 makes AAAA records for names that have only A records.
	DNS64 *DNS64 `json:"dns64,omitempty"`
	// Log samples queries.
	Log Log `json:"log,omitempty"`
}

// Upstream is a group of servers.
type Upstream struct {
	// Servers are "10.0.0.1", "10.0.0.1:5353" or "tls://1.1.1.1#cloudflare-dns.com". Default: those of the node's resolv.conf.
	Servers []string `json:"servers,omitempty"`
	// Policy is sequential (default), random or roundRobin.
	Policy forward.Policy `json:"policy,omitempty"`
}

// Cache bounds what is kept of upstream answers.
type Cache struct {
	// Size is the number of answers. Default 10000; 0 keeps none.
	Size *int `json:"size,omitempty"`
	// MaxTTL and MaxNegativeTTL bound how long an answer counts as fresh. Default 30s both.
	MaxTTL         *metav1.Duration `json:"maxTTL,omitempty"`
	MaxNegativeTTL *metav1.Duration `json:"maxNegativeTTL,omitempty"`
	// ServeStale is how long after its end an answer still serves when no upstream answers. Default 1h; 0s never.
	ServeStale *metav1.Duration `json:"serveStale,omitempty"`
}

// Rewrite replaces a name, or the end of one.
type Rewrite struct {
	// Name is the exact name to replace, or Suffix the end of names, whole labels.
	Name   string `json:"name,omitempty"`
	Suffix string `json:"suffix,omitempty"`
	// To takes its place.
	To string `json:"to"`
}

// RateLimit is a token bucket for each client.
type RateLimit struct {
	QueriesPerSecond uint32 `json:"queriesPerSecond"`
	// Burst is how many queries may come at once. Default: those of a second.
	Burst uint32 `json:"burst,omitempty"`
}

// ACL is one rule.
type ACL struct {
	// Namespaces of the clients it is for; all if empty.
	Namespaces []string `json:"namespaces,omitempty"`
	// Names are domains, which stand for all below them too; all if empty.
	Names []string `json:"names,omitempty"`
	// Action is allow or deny; what is denied is REFUSED.
	Action string `json:"action"`
}

// DNS64 is RFC 6147.
type DNS64 struct {
	// Prefix is a /96. Default 64:ff9b::/96.
	Prefix string `json:"prefix,omitempty"`
}

// Log chooses which queries are logged.
type Log struct {
	// Every logs one query out of so many. Default 0: none.
	Every uint32 `json:"every,omitempty"`
}

// Decode reads the configuration; empty text is the default.
func Decode(text string) (*Config, error) {
	c := &Config{}
	if err := yaml.UnmarshalStrict([]byte(text), c); err != nil {
		return nil, fmt.Errorf("%s/%s, key %s: %w", Namespace, Name, Key, err)
	}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("%s/%s, key %s: %w", Namespace, Name, Key, err)
	}
	return c, nil
}

// validate collects all that is wrong, each with its field.
func (c *Config) validate() error {
	var errs []error
	bad := func(field, format string, args ...any) { errs = append(errs, fmt.Errorf(field+": "+format, args...)) }
	name := func(field, value string) {
		if _, err := wire.AppendName(nil, value); err != nil {
			bad(field, "%v", err)
		}
	}
	if c.TTL != nil && *c.TTL > 3600 {
		bad("ttl", "%d is not within 0 to 3600", *c.TTL)
	}
	if !slices.Contains([]string{"", "insecure", "verified", "disabled"}, c.Pods) {
		bad("pods", "%q is not insecure, verified or disabled", c.Pods)
	}
	errs = append(errs, c.Upstream.validate("upstream")...)
	for zone, u := range c.Zones {
		name("zones", zone)
		if len(u.Servers) == 0 {
			bad("zones["+zone+"].servers", "a zone needs servers")
		}
		errs = append(errs, u.validate("zones["+zone+"]")...)
	}
	if c.Cache.Size != nil && (*c.Cache.Size < 0 || *c.Cache.Size > 1_000_000) {
		bad("cache.size", "%d is not within 0 to 1000000", *c.Cache.Size)
	}
	for field, d := range map[string]*metav1.Duration{"cache.maxTTL": c.Cache.MaxTTL, "cache.maxNegativeTTL": c.Cache.MaxNegativeTTL, "cache.serveStale": c.Cache.ServeStale} {
		if d != nil && (d.Duration < 0 || d.Duration > 7*24*time.Hour) {
			bad(field, "%v is not within 0s and a week", d.Duration)
		}
	}
	for host, addrs := range c.Hosts {
		name("hosts", host)
		for _, a := range addrs {
			if _, err := netip.ParseAddr(a); err != nil {
				bad("hosts["+host+"]", "%v", err)
			}
		}
	}
	for i, r := range c.Rewrite {
		field := fmt.Sprintf("rewrite[%d]", i)
		if (r.Name == "") == (r.Suffix == "") || r.To == "" {
			bad(field, "needs to, and either name or suffix")
		}
		name(field, r.Name+r.Suffix)
		name(field+".to", r.To)
	}
	if c.RateLimit != nil && c.RateLimit.QueriesPerSecond == 0 {
		bad("rateLimit.queriesPerSecond", "must be above 0")
	}
	for i, a := range c.ACL {
		field := fmt.Sprintf("acl[%d]", i)
		if a.Action != "allow" && a.Action != "deny" {
			bad(field+".action", "%q is not allow or deny", a.Action)
		}
		for _, n := range a.Names {
			name(field+".names", n)
		}
	}
	if c.DNS64 != nil {
		if p, err := c.DNS64.prefix(); err != nil || p.Bits() != 96 || p.Addr().Is4() {
			bad("dns64.prefix", "%q is not an IPv6 /96", c.DNS64.Prefix)
		}
	}
	return errors.Join(errs...)
}

func (u Upstream) validate(field string) []error {
	var errs []error
	for _, s := range u.Servers {
		if _, err := forward.ParseServer(s); err != nil {
			errs = append(errs, fmt.Errorf("%s.servers: %w", field, err))
		}
	}
	if !slices.Contains([]forward.Policy{"", forward.Sequential, forward.Random, forward.RoundRobin}, u.Policy) {
		errs = append(errs, fmt.Errorf("%s.policy: %q is not sequential, random or roundRobin", field, u.Policy))
	}
	return errs
}

// Parsed are the servers, which validate has read before.
func (u Upstream) Parsed() []forward.Server {
	var out []forward.Server
	for _, s := range u.Servers {
		if server, err := forward.ParseServer(s); err == nil {
			out = append(out, server)
		}
	}
	return out
}

func (d *DNS64) prefix() (netip.Prefix, error) {
	if d.Prefix == "" {
		return netip.MustParsePrefix("64:ff9b::/96"), nil
	}
	p, err := netip.ParsePrefix(d.Prefix)
	return p.Masked(), err
}

// NAT64 is the prefix of DNS64, invalid where that is off.
func (c *Config) NAT64() netip.Prefix {
	if c.DNS64 == nil {
		return netip.Prefix{}
	}
	p, err := c.DNS64.prefix()
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// NeedsClients says whether the namespaces of clients matter, or the addresses of pods.
func (c *Config) NeedsClients() bool {
	return c.SearchPath || c.Pods == "verified" || slices.ContainsFunc(c.ACL, func(a ACL) bool { return len(a.Namespaces) > 0 })
}

// Lower is a domain name as the tables have it: lower case with the final dot.
func Lower(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) + "." }
