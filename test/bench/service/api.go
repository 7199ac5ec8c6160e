package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skep-io/skep/cmd/skep/bench"
	"github.com/skep-io/skep/control/apiserver"
	"github.com/skep-io/skep/control/apiserver/allocation"
	"github.com/skep-io/skep/control/etcd"
	"github.com/skep-io/skep/control/pki"
)

// The Services that are looked at. The others, named svc-N, are there to be many.
const (
	// peerService leads to the backend, by its cluster IP and node ports.
	peerService = "peer"
	// probeService gets and loses its endpoint.
	probeService = "probe"
	// lastService comes after all others in a list of Services, and leads to the backend too.
	lastService = "zz-last"
	namespace   = "default"
)

const apiPort = 16743

// api is the API server that all nodes follow, in this process.
type api struct {
	client kubernetes.Interface
	// keys sign the credentials of the nodes.
	keys *pki.Bundle
	stop func()
	// backend is the address of the endpoint behind the Services that are looked at.
	backend netip.Addr
	// clusterIP and nodePorts are those of peerService: echo and sink. probeIP and lastIP are the cluster IPs of those Services.
	clusterIP, probeIP, lastIP netip.Addr
	nodePorts                  [2]uint16
}

func startAPI(ctx context.Context, dir string, backend netip.Addr) (*api, error) {
	logger := slog.New(slog.DiscardHandler)
	store, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(dir, "etcd"), Logger: logger})
	if err != nil {
		return nil, err
	}
	names := pki.Names{DNS: []string{"localhost"}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.96.0.1")}}
	for i := range maxNodes {
		names.IPs = append(names.IPs, apiAddress(i))
	}
	keys, err := pki.Ensure(filepath.Join(dir, "pki"), names)
	if err != nil {
		store.Close()
		return nil, err
	}
	s, err := apiserver.New(ctx, apiserver.Config{
		Port: apiPort, AdvertiseAddress: apiAddress(0), EtcdEndpoints: store.Endpoints(), Keys: keys,
		ServiceCIDRs: []netip.Prefix{serviceCIDR}, PodCIDRs: []netip.Prefix{clusterCIDR}, NodePorts: allocation.Ports{Min: 30000, Max: 32767},
		APIServiceIP: netip.MustParseAddr("10.96.0.1"), DNSServiceIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
		ClusterDomain: "cluster.local", AgentPort: 10250, Logger: logger,
	})
	if err != nil {
		store.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	a := &api{keys: keys, backend: backend, stop: func() {
		cancel()
		<-done
		store.Close()
	}}
	select {
	case <-s.Ready():
	case err := <-done:
		cancel()
		store.Close()
		return nil, err
	}
	cfg := rest.CopyConfig(s.Loopback())
	cfg.QPS = -1
	if a.client, err = kubernetes.NewForConfig(cfg); err == nil {
		err = a.prepare(ctx)
	}
	if err != nil {
		a.stop()
		return nil, err
	}
	return a, nil
}

// prepare makes the node that each proxy takes itself for, and the Services that are looked at.
func (a *api) prepare(ctx context.Context) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}, Spec: corev1.NodeSpec{PodCIDR: podCIDR.String(), PodCIDRs: []string{podCIDR.String()}}}
	node, err := a.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP.String()}}
	if _, err := a.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return err
	}
	peer, err := a.make(ctx, peerService, corev1.ServiceTypeNodePort, []string{a.backend.String()}, bench.EchoPort, bench.SinkPort)
	if err != nil {
		return err
	}
	probe, err := a.make(ctx, probeService, corev1.ServiceTypeClusterIP, nil, bench.EchoPort)
	if err != nil {
		return err
	}
	last, err := a.make(ctx, lastService, corev1.ServiceTypeClusterIP, []string{a.backend.String()}, bench.EchoPort)
	if err != nil {
		return err
	}
	a.clusterIP, a.probeIP, a.lastIP = netip.MustParseAddr(peer.Spec.ClusterIP), netip.MustParseAddr(probe.Spec.ClusterIP), netip.MustParseAddr(last.Spec.ClusterIP)
	for i := range a.nodePorts {
		a.nodePorts[i] = uint16(peer.Spec.Ports[i].NodePort)
	}
	return nil
}

// fill makes the Services from..to, of so many endpoints each, which nobody uses.
func (a *api) fill(ctx context.Context, from, to, each int) error {
	var group errgroup.Group
	group.SetLimit(32)
	for i := from; i < to; i++ {
		group.Go(func() error {
			var addresses []string
			for n := range each {
				addresses = append(addresses, fmt.Sprintf("10.%d.%d.%d", 245+n%3, i/250+n/3*128, i%250+1))
			}
			_, err := a.make(ctx, fmt.Sprintf("svc-%d", i), corev1.ServiceTypeClusterIP, addresses, 80)
			return err
		})
	}
	return group.Wait()
}

// make makes a Service and its slice.
func (a *api) make(ctx context.Context, name string, kind corev1.ServiceType, addresses []string, ports ...int32) (*corev1.Service, error) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: kind}}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints(addresses),
	}
	for _, port := range ports {
		portName, protocol := fmt.Sprintf("p%d", port), corev1.ProtocolTCP
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: portName, Port: port, Protocol: protocol})
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &portName, Port: &port, Protocol: &protocol})
	}
	svc, err := a.client.CoreV1().Services(namespace).Create(ctx, svc, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	_, err = a.client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice, metav1.CreateOptions{})
	return svc, err
}

func endpoints(addresses []string) []discoveryv1.Endpoint {
	list := []discoveryv1.Endpoint{}
	ready := true
	for _, addr := range addresses {
		list = append(list, discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	return list
}

// setProbe gives the probe Service these endpoints.
func (a *api) setProbe(ctx context.Context, addresses ...string) error {
	slices := a.client.DiscoveryV1().EndpointSlices(namespace)
	slice, err := slices.Get(ctx, probeService+"-1", metav1.GetOptions{})
	if err != nil {
		return err
	}
	slice.Endpoints = endpoints(addresses)
	_, err = slices.Update(ctx, slice, metav1.UpdateOptions{})
	return err
}
