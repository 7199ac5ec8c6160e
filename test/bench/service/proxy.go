package main

import (
	"context"
	"os"
)

// prepareProxy makes kube-proxy the node's server, with its defaults but for what it cannot set in a network namespace.
func (n *node) prepareProxy(binary, kubeconfig string) error {
	log, err := os.Create(n.logFile())
	if err != nil {
		return err
	}
	n.start = func(context.Context) error {
		n.server = within(n.namespace("node"), binary, "--kubeconfig", kubeconfig, "--proxy-mode", n.kind, "--hostname-override", nodeName,
			"--cluster-cidr", clusterCIDR.String(), "--conntrack-max-per-core", "0", "--conntrack-min", "0",
			"--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0",
			"--metrics-bind-address", "127.0.0.1:10249", "--healthz-bind-address", "127.0.0.1:10256")
		n.server.Stdout, n.server.Stderr = log, log
		return n.server.Start()
	}
	n.flush = func() error {
		return script("nsenter --net=" + n.namespace("node") + ` bash -ec '
nft flush ruleset
for t in filter nat mangle; do iptables -t $t -F; iptables -t $t -X; done
conntrack -F >/dev/null 2>&1 || true'`)
	}
	return nil
}
