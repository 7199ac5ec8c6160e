package config

import (
	"strings"
	"testing"
)

const full = `
ttl: 10
pods: verified
searchPath: true
upstream:
  servers: ["10.0.0.1", "tls://192.0.2.1#dns.example"]
  policy: random
zones:
  corp.example:
    servers: ["10.1.0.53:5353"]
cache: {size: 5000, maxTTL: 1m, maxNegativeTTL: 5s, serveStale: 2h}
hosts:
  registry.local: ["192.0.2.10", "fd00::10"]
rewrite:
- {suffix: old.example, to: new.example}
rateLimit: {queriesPerSecond: 1000, burst: 2000}
acl:
- {namespaces: [batch], names: [example.com], action: deny}
dns64: {prefix: "64:ff9b::/96"}
log: {every: 1000}
`

func TestDecode(t *testing.T) {
	c, err := Decode(full)
	if err != nil {
		t.Fatal(err)
	}
	if *c.TTL != 10 || len(c.Upstream.Parsed()) != 2 || c.Cache.ServeStale.Hours() != 2 || !c.NeedsClients() || c.NAT64().Bits() != 96 {
		t.Errorf("%+v", c)
	}
	if c, err = Decode(""); err != nil || c.NeedsClients() {
		t.Errorf("empty: %+v, %v", c, err)
	}
}

func TestErrorsNameTheField(t *testing.T) {
	for text, want := range map[string]string{
		"tll: 5":                                 "tll",
		"ttl: 5000":                              "ttl",
		"ttl: -1":                                "ttl",
		"pods: maybe":                            "pods",
		"upstream: {servers: [example.com]}":     "upstream.servers",
		"upstream: {policy: best}":               "upstream.policy",
		"zones: {corp: {}}":                      "zones[corp].servers",
		"cache: {size: -1}":                      "cache.size",
		"cache: {maxTTL: -5s}":                   "cache.maxTTL",
		"hosts: {a: [b]}":                        "hosts[a]",
		"hosts: {a..b: [192.0.2.1]}":             "hosts",
		"rewrite: [{name: a, suffix: b, to: c}]": "rewrite[0]",
		"rateLimit: {}":                          "rateLimit.queriesPerSecond",
		"acl: [{action: drop}]":                  "acl[0].action",
		"dns64: {prefix: 10.0.0.0/8}":            "dns64.prefix",
		"log: {all: true}":                       "all",
	} {
		if _, err := Decode(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not name %s", text, err, want)
		}
	}
}
