package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/control/pki"
)

// maxRequest bounds a request's size.
const maxRequest = 64 << 10

// Server answers Requests.
type Server struct {
	// Client reads Nodes.
	Client  kubernetes.Interface
	Keys    *pki.Bundle
	Cluster Cluster
	Logger  *slog.Logger
}

// errForbidden is wrapped by every refusal.
var errForbidden = errors.New("refused")

// ServeHTTP implements http.Handler, behind the API server's authentication.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "POST a request", http.StatusMethodNotAllowed)
		return
	}
	who, ok := genericapirequest.UserFrom(r.Context())
	if !ok {
		http.Error(w, "nobody knows you", http.StatusUnauthorized)
		return
	}
	var req Request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := s.answer(r.Context(), who, req)
	switch {
	case errors.Is(err, errForbidden):
		s.Logger.Warn("a node may not join", "node", req.Name, "user", who.GetName(), "error", err)
		http.Error(w, err.Error(), http.StatusForbidden)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		s.Logger.Info("certificates for a node", "node", req.Name, "addresses", req.Addresses, "user", who.GetName())
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // the client is gone if it fails
	}
}

func (s *Server) answer(ctx context.Context, who user.Info, req Request) (*Response, error) {
	if errs := validation.IsDNS1123Subdomain(req.Name); len(errs) > 0 {
		return nil, fmt.Errorf("node name %q: %s", req.Name, strings.Join(errs, ", "))
	}
	nodes, err := s.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	if err := permit(who, req, nodes.Items); err != nil {
		return nil, err
	}
	if err := s.permitNames(req); err != nil {
		return nil, err
	}
	answer := &Response{CA: s.Keys.CA.Cert, Cluster: s.Cluster}
	answer.Client, answer.Server, err = s.Keys.SignNode(req.CertificateRequest, req.Name, req.Addresses)
	return answer, err
}

// permit decides by who asks. A token makes new nodes and brings back those that are gone, but it never takes over a node that
// is well; and nobody gets a certificate for another node's address.
func permit(who user.Info, req Request, nodes []corev1.Node) error {
	switch {
	case slices.Contains(who.GetGroups(), NodesGroup):
		if who.GetName() != nodeUserPrefix+req.Name {
			return fmt.Errorf("%w: %s asks for node %s", errForbidden, who.GetName(), req.Name)
		}
	case slices.Contains(who.GetGroups(), BootstrapGroup):
		for i := range nodes {
			if nodes[i].Name == req.Name && ready(&nodes[i]) {
				return fmt.Errorf("%w: a node %s exists and is ready; choose another --node-name, or remove it with `skep delete node %s`", errForbidden, req.Name, req.Name)
			}
		}
	default:
		return fmt.Errorf("%w: neither a node nor the bearer of a bootstrap token", errForbidden)
	}
	for i := range nodes {
		if nodes[i].Name == req.Name {
			continue
		}
		for _, a := range nodes[i].Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil && slices.Contains(req.Addresses, ip) {
				return fmt.Errorf("%w: %s is the address of node %s", errForbidden, ip, nodes[i].Name)
			}
		}
	}
	return nil
}

// permitNames keeps from a node what would let it pass for the API server.
func (s *Server) permitNames(req Request) error {
	if s.Keys.Holds(req.Name) {
		return fmt.Errorf("%w: %s is a name of the API server", errForbidden, req.Name)
	}
	if len(req.Addresses) == 0 {
		return errors.New("a node needs an address")
	}
	for _, a := range req.Addresses {
		if !a.IsGlobalUnicast() || contain(s.Cluster.ServiceCIDRs, a) || contain(s.Cluster.PodCIDRs, a) || s.Keys.Holds(a.String()) {
			return fmt.Errorf("%w: %s is no address of a node's own", errForbidden, a)
		}
	}
	return nil
}

func contain(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}

func ready(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
