package e2e

import "testing"

// TestServiceCondition: what a node no longer lacks it takes out of a Service's status, and what another one is said to lack goes
// with that node.
func TestServiceCondition(t *testing.T) {
	ns := namespace(t)
	must(t)(shared.skep("create", "service", "clusterip", "kept", "--tcp=80", "-n", ns))
	must(t)(shared.skep("patch", "service", "kept", "-n", ns, "--subresource=status", "--type=merge", "-p",
		`{"status":{"conditions":[{"type":"skep.dev/Programmed","status":"False","reason":"NotProgrammed","lastTransitionTime":"2026-01-01T00:00:00Z",
		"message":"Node e2e: map slot: no room\nNode gone: map slot: no room"}]}}`))
	must(t)(shared.skep("wait", "--for=condition=skep.dev/Programmed", "service/kept", "-n", ns, "--timeout=20s"))
}
