// Package join is how a machine becomes a node: it shows a bootstrap token, or the certificate of the node that it is already,
// and gets its certificates and what it must know of the cluster. One request does it, answered at once and stored nowhere;
// certificate requests as API objects would need two controllers and a wait for what comes to the same.
package join

import (
	"fmt"
	"net/netip"
)

// Path is where the API server answers. The request is a Request, the answer a Response, both in JSON.
const Path = "/skep/v1/join"

// Who may ask: bearers of bootstrap tokens, and nodes for themselves.
const (
	BootstrapGroup = "system:bootstrappers"
	NodesGroup     = "system:nodes"
	nodeUserPrefix = "system:node:"
)

// Request asks for the certificates of a node.
type Request struct {
	// Name is the node's.
	Name string `json:"name"`
	// Addresses are those at which the node's agent serves.
	Addresses []netip.Addr `json:"addresses"`
	// CertificateRequest is a PKCS #10 request in PEM; only its key counts.
	CertificateRequest []byte `json:"certificateRequest"`
}

// Response is what makes a machine a node.
type Response struct {
	// Client and Server are the node's certificates in PEM.
	Client []byte `json:"client"`
	Server []byte `json:"server"`
	// CA is the cluster's CA certificate in PEM.
	CA      []byte  `json:"ca"`
	Cluster Cluster `json:"cluster"`
}

// Cluster is what is the same on all nodes.
type Cluster struct {
	// PodCIDRs are the pod addresses of all nodes, ServiceCIDRs the cluster IPs: a range of each family.
	PodCIDRs     []netip.Prefix `json:"podCIDRs"`
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs"`
}

func (c Cluster) validate() error {
	if len(c.PodCIDRs) == 0 || len(c.ServiceCIDRs) == 0 {
		return fmt.Errorf("the server names no ranges of addresses: pods %v, services %v", c.PodCIDRs, c.ServiceCIDRs)
	}
	return nil
}
