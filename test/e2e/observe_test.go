package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// watchedFlow is what the tests read of an event of skep net observe.
type watchedFlow struct {
	Event, Verdict, Reason, Place, Service, ToPod string
}

// watched calls again and again while skep net observe runs, until it has seen one event that its flags choose.
func watched(t *testing.T, call func(), flags ...string) watchedFlow {
	t.Helper()
	type answer struct {
		out string
		err error
	}
	done := make(chan answer)
	go func() {
		out, err := shared.skep(append([]string{"net", "observe", "-o", "json", "--count", "1", "--for", "30s"}, flags...)...)
		done <- answer{out, err}
	}()
	for {
		select {
		case a := <-done:
			var f watchedFlow
			if out := must(t)(a.out, a.err); out == "" {
				t.Errorf("no event for %v", flags)
			} else if err := json.Unmarshal([]byte(out), &f); err != nil {
				t.Error(err)
			}
			return f
		default:
			call()
		}
	}
}

// TestObserve watches connections to a Service, by socket and by packet, and one that a policy denies.
func TestObserve(t *testing.T) {
	ns, pods, ip := demo(t, 30095)
	named := func(f watchedFlow) bool {
		pod, ours := strings.CutPrefix(f.ToPod, ns+"/")
		return ours && strings.Contains(strings.Join(pods, " "), pod) && strings.HasPrefix(f.Service, ns+"/echo")
	}
	inside := func() { _, _ = shared.inside("net", "call", "http://"+ip+"/", "--timeout", "1s") }
	outside := func() { _, _ = shared.outside("net", "call", "http://"+nodeIP+":30095/", "--timeout", "200ms") }
	if f := watched(t, inside, "--service", ns+"/echo"); f.Event != "new" || f.Place != "sock" || f.Verdict != "allowed" || !named(f) {
		t.Errorf("a process of the node connects: %+v", f)
	}
	if f := watched(t, outside, "--service", ns+"/echo", "--from", outsideIP); f.Event != "new" || f.Place != "from_net" || !named(f) {
		t.Errorf("somebody outside connects: %+v", f)
	}
	must(t)(shared.pipe(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed}, spec: {podSelector: {}, policyTypes: [Ingress]}}`,
		"apply", "-n", ns, "-f", "-"))
	if f := watched(t, outside, "--verdict", "denied", "--service", ns+"/echo"); f.Event != "drop" || f.Reason != "policy_ingress" || !named(f) {
		t.Errorf("a policy denies: %+v", f)
	}
	if out, err := shared.skep("net", "observe", "--verdict", "maybe"); err == nil || !strings.Contains(err.Error(), "denied") {
		t.Errorf("a verdict that there is not: %v %s", err, out)
	}
}

// TestPolicyCommand compares the kernel with the API for a pod with all kinds of peers.
func TestPolicyCommand(t *testing.T) {
	ns, pods, _ := demo(t, 30096)
	must(t)(shared.pipe(`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: some}
spec:
  podSelector: {matchLabels: {app: echo}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: echo}}}, {namespaceSelector: {}}]
    ports: [{port: 8080}, {port: 9000, endPort: 9010}]
  - from: [{ipBlock: {cidr: 198.18.0.0/16, except: [198.18.91.128/25]}}]
  egress:
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{port: 53, protocol: UDP}]
`, "apply", "-n", ns, "-f", "-"))
	var p struct {
		Here        bool
		Directions  []struct{ Isolated bool }
		Differences []string
	}
	// The kernel follows the API within a moment.
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		out := must(t)(shared.skep("net", "policy", ns+"/"+pods[0], "-o", "json"))
		if err := json.Unmarshal([]byte(out), &p); err != nil {
			t.Fatal(err)
		}
		if len(p.Differences) == 0 {
			break
		}
	}
	if !p.Here || len(p.Differences) > 0 || len(p.Directions) != 2 || !p.Directions[0].Isolated || !p.Directions[1].Isolated {
		t.Errorf("%+v", p)
	}
	out := must(t)(shared.skep("net", "policy", ns+"/"+pods[0]))
	for _, want := range []string{"isolated by some", "any pod", "TCP:8080,TCP:9000-9010", "198.18.0.0/16", "UDP:53", "the kernel has the same"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
