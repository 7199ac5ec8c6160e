package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tracedPacket is what the tests read of skep net trace.
type tracedPacket struct {
	Verdict, Reason, Reply string
	Hops                   []struct {
		Where, Program, What, Before, After string
		Why                                 []string
		Reply                               bool
	}
	Notes []string
}

// traced follows a packet.
func traced(t *testing.T, flags ...string) (p tracedPacket, text string) {
	t.Helper()
	args := append([]string{"net", "trace", "--run-dir", filepath.Join(shared.dir, "run")}, flags...)
	out := must(t)(shared.skep(append(args, "-o", "json")...))
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		t.Fatal(err)
	}
	t.Log(must(t)(shared.skep(args...)))
	return p, out
}

// TestTrace follows packets of all kinds, and finds no trace of them in the kernel's tables.
func TestTrace(t *testing.T) {
	ns, pods, ip := demo(t, 30097)
	web := ns + "/" + pods[0]
	must(t)(shared.pipe(`{apiVersion: v1, kind: Service, metadata: {name: empty}, spec: {selector: {app: nobody}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: kept}, spec: {selector: {app: echo}, sessionAffinity: ClientIP, ports: [{port: 80, targetPort: 8080}]}}
`, "apply", "-n", ns, "-f", "-"))
	for _, r := range []struct {
		name                  string
		flags                 []string
		verdict, reply, holds string
	}{
		{"a pod to a Service by name", []string{"--from", web, "--to", "echo:80"}, "delivered", "delivered", "the Service becomes a backend"},
		{"a pod to a Service, packet by packet", []string{"--from", web, "--to", ip + ":80", "--packets"}, "delivered", "delivered", "from_pod"},
		{"a pod to a Service with affinity, packet by packet", []string{"--from", web, "--to", "kept:80", "--packets"}, "delivered", "delivered", "from_pod"},
		{"a pod to a Service that nobody serves", []string{"--from", web, "--to", "empty:80"}, "refused", "", "no ready endpoint"},
		{"the same, packet by packet", []string{"--from", web, "--to", "empty:80", "--packets"}, "refused", "", "no_backend"},
		{"a pod to the outside", []string{"--from", web, "--to", outsideIP + ":80"}, "sent", "delivered", "the source becomes " + nodeIP},
		{"a pod to the outside, UDP and IPv6", []string{"--from", web, "--to", "[" + outside6 + "]:53", "--protocol", "udp"}, "sent", "delivered", nodeIP6},
		{"a pod to its node", []string{"--from", web, "--to", nodeIP + ":22"}, "delivered", "delivered", "for a process of the node"},
		{"the node to a Service", []string{"--from", "node", "--to", ip + ":80"}, "delivered", "delivered", "to_pod"},
		{"outside to a node port", []string{"--from", outsideIP, "--to", nodeIP + ":30097"}, "delivered", "sent", "from_net"},
	} {
		t.Run(r.name, func(t *testing.T) {
			p, text := traced(t, r.flags...)
			if p.Verdict != r.verdict || p.Reply != r.reply || !strings.Contains(text, r.holds) || len(p.Notes) > 0 {
				t.Errorf("want %s, answer %q, and %q in\n%s", r.verdict, r.reply, r.holds, text)
			}
		})
	}
	must(t)(shared.pipe(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed}, spec: {podSelector: {}, policyTypes: [Ingress]}}`,
		"apply", "-n", ns, "-f", "-"))
	// A pod whose Service leads to itself is not asked: another backend is.
	other := must(t)(shared.skep("get", "pod", pods[1], "-n", ns, "-o", "jsonpath={.status.podIP}"))
	denied := func() bool {
		p, text := traced(t, "--from", web, "--to", "echo:80", "--backend", other)
		return p.Verdict == "denied" && p.Reason == "policy_ingress" && strings.Contains(text, "isolated by closed, none of which allows TCP:8080 from "+web)
	}
	// The kernel follows the API within a moment.
	for deadline := time.Now().Add(10 * time.Second); !denied(); {
		if time.Now().After(deadline) {
			t.Error("a policy denies: it is not said")
			break
		}
	}
	if out := must(t)(shared.skep("net", "conntrack")); strings.Contains(out, ":29999 ") {
		t.Errorf("traces left flows:\n%s", out)
	}
	if _, err := shared.skep("net", "trace", "--from", "nobody", "--to", "echo:80"); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("a pod that there is not: %v", err)
	}
}
