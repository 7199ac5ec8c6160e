// Package subresource serves what is below the objects of the API: the binding, eviction, logs and streams of pods, the scale
// of workloads, and the two-phase deletion of namespaces. Everything reads and writes the stores of control/apiserver/registry.
package subresource

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/skep-io/skep/control/pki"
)

// Nodes finds the agent that runs a pod and reaches it by TLS, verified on both sides. It is safe for concurrent use.
type Nodes struct {
	pods, nodes rest.Getter
	port        int
	transport   *http.Transport
}

// NewNodes makes the way to the agents, which serve https on the given port of their node's address.
func NewNodes(pods, nodes rest.Getter, keys *pki.Bundle, port int) (*Nodes, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(keys.CA.Cert) {
		return nil, errors.New("the CA's file has no certificate")
	}
	// Read for each connection, for it is renewed under way.
	client := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return keys.NodeClient.Current() }
	// Streams upgrade the connection, which HTTP/2 cannot.
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: roots, GetClientCertificate: client, NextProtos: []string{"http/1.1"}}}
	transport = utilnet.SetOldTransportDefaults(transport)
	// The agents are never behind a proxy, whatever the environment says.
	transport.Proxy = nil
	return &Nodes{pods: pods, nodes: nodes, port: port, transport: transport}, nil
}

// pod reads a pod of the request's namespace.
func (n *Nodes) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	obj, err := n.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("unexpected object type: %T", obj)
	}
	return pod, nil
}

// location is a URL of the agent that runs the pod.
func (n *Nodes) location(ctx context.Context, pod *corev1.Pod, path string, query url.Values) (*url.URL, error) {
	if pod.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	obj, err := n.nodes.Get(ctx, pod.Spec.NodeName, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	node, ok := obj.(*corev1.Node)
	if !ok {
		return nil, fmt.Errorf("unexpected object type: %T", obj)
	}
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			host := net.JoinHostPort(address.Address, strconv.Itoa(n.port))
			return &url.URL{Scheme: "https", Host: host, Path: path, RawQuery: query.Encode()}, nil
		}
	}
	return nil, fmt.Errorf("no preferred addresses found; known addresses: %v", node.Status.Addresses)
}

// containerOf is the name of the container that a request means: the one it names, or the pod's only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	all := containerNames(pod)
	switch {
	case name != "":
		for _, has := range all {
			if has == name {
				return name, nil
			}
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	case len(pod.Spec.Containers) == 1:
		return pod.Spec.Containers[0].Name, nil
	case len(pod.Spec.Containers) == 0:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, all))
}

// containerNames are the names of all containers, in the order they start.
func containerNames(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.InitContainers {
		names = append(names, pod.Spec.InitContainers[i].Name)
	}
	for i := range pod.Spec.Containers {
		names = append(names, pod.Spec.Containers[i].Name)
	}
	for i := range pod.Spec.EphemeralContainers {
		names = append(names, pod.Spec.EphemeralContainers[i].Name)
	}
	return names
}
