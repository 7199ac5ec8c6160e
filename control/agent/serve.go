package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/control/agent/container"
)

// allowed are the identities that may use the agent's server.
var allowed = []string{"kube-apiserver", "kube-apiserver-kubelet-client"}

// serve answers the API server over https until ctx ends.
func (a *Agent) serve(ctx context.Context, streams http.Handler) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.Handle("GET /metrics", promhttp.Handler())
	mux.Handle("/", streams)
	config := a.cfg.TLS.Clone()
	config.ClientAuth, config.MinVersion = tls.RequireAndVerifyClientCert, tls.VersionTLS12
	// Upgrades to exec and attach streams are HTTP/1.1 only.
	config.NextProtos = []string{"http/1.1"}
	server := &http.Server{
		Handler: authorized(mux), TLSConfig: config, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(a.cfg.Logger.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	served := make(chan error, len(a.cfg.Listen))
	for _, address := range a.cfg.Listen {
		listener, err := net.Listen("tcp", address.String())
		if err != nil {
			server.Close()
			return fmt.Errorf("agent server: %w", err)
		}
		go func() { served <- fmt.Errorf("agent server on %s: %w", address, server.ServeTLS(listener, "", "")) }()
	}
	return <-served
}

// authorized lets only the API server and cluster administrators through: a certificate of the cluster alone is not enough, for
// every node and user has one.
func authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			subject := r.TLS.PeerCertificates[0].Subject
			if slices.Contains(allowed, subject.CommonName) || slices.Contains(subject.Organization, "system:masters") {
				next.ServeHTTP(w, r)
				return
			}
		}
		http.Error(w, "Forbidden", http.StatusForbidden)
	})
}

// resolver finds pods and containers by name for the streams.
type resolver struct{ agent *Agent }

func (r resolver) pod(namespace, name, uid string) (*corev1.Pod, error) {
	for _, p := range r.agent.pods.Pods() {
		if p.Namespace == namespace && p.Name == name && (uid == "" || string(p.UID) == uid) {
			return p, nil
		}
	}
	return nil, fmt.Errorf("pod %q does not exist", name)
}

// Container returns the newest container of that name; with previous, the one before it.
func (r resolver) Container(_ context.Context, namespace, name, uid, containerName string, previous bool) (container.Status, error) {
	p, err := r.pod(namespace, name, uid)
	if err != nil {
		return container.Status{}, err
	}
	now, before, ok := r.agent.pods.Container(p.UID, containerName)
	switch {
	case !ok:
		return container.Status{}, fmt.Errorf("container %q in pod %q is waiting to start: ContainerCreating", containerName, name)
	case !previous:
		return now, nil
	case before.ID == "":
		return container.Status{}, fmt.Errorf("previous terminated container %q in pod %q not found", containerName, name)
	}
	return before, nil
}

// NetNS returns the path of a pod's network namespace, empty for a pod in the host's.
func (r resolver) NetNS(_ context.Context, namespace, name, uid string) (string, error) {
	p, err := r.pod(namespace, name, uid)
	if err != nil || p.Spec.HostNetwork {
		return "", err
	}
	path, ok := r.agent.pods.NetNS(p.UID)
	if !ok {
		return "", fmt.Errorf("pod %q has no network yet", name)
	}
	return filepath.Clean(path), nil
}
