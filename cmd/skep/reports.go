package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"

	"github.com/skep-io/skep/datapath"
)

// deletionTaint is on a node that the cluster autoscaler is about to remove.
const deletionTaint = "ToBeDeletedByClusterAutoscaler"

// startReports serves what kube-proxy serves elsewhere, and at the same places: metrics, and whether load balancers should send
// connections to this node.
func (n *node) startReports(ctx context.Context, d *datapath.Datapath, factory informers.SharedInformerFactory) error {
	synced := func() bool {
		select {
		case <-d.Synced():
			return true
		default:
			return false
		}
	}
	nodes := factory.Core().V1().Nodes().Lister()
	stays := func() bool {
		node, err := nodes.Get(n.cfg.name)
		return err != nil || !leaving(node)
	}
	metrics, health := http.NewServeMux(), http.NewServeMux()
	metrics.Handle("GET /metrics", promhttp.Handler())
	health.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { answer(w, synced()) })
	health.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, synced() && stays()) })
	if err := n.serve(ctx, "--metrics-address", n.cfg.foreign.metrics, metrics); err != nil {
		return err
	}
	return n.serve(ctx, "--health-address", n.cfg.foreign.health, health)
}

// leaving says that a node takes no more connections from balancers, though those that it has go on.
func leaving(node *corev1.Node) bool {
	for _, t := range node.Spec.Taints {
		if t.Key == deletionTaint {
			return true
		}
	}
	return node.DeletionTimestamp != nil
}

func answer(w http.ResponseWriter, good bool) {
	if !good {
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprint(w, "ok")
}

// serve answers over HTTP at an address until ctx ends; at the empty address it does not.
func (n *node) serve(ctx context.Context, flag, address string, handler http.Handler) error {
	if address == "" {
		return nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w; does kube-proxy still run on this node?", flag, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	context.AfterFunc(ctx, func() { server.Close() })
	n.group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}
