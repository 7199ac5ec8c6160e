package apiserver_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skep-io/skep/control/apiserver"
	"github.com/skep-io/skep/control/apiserver/allocation"
	"github.com/skep-io/skep/control/etcd"
	"github.com/skep-io/skep/control/pki"
)

// loopback is the address of everything in these tests.
var loopback = netip.MustParseAddr("127.0.0.1")

// cluster is a running API server over its own store, without controllers or nodes.
type cluster struct {
	keys *pki.Bundle
	// config is of the group system:masters, and client made of it.
	config *rest.Config
	client kubernetes.Interface
	// etcd are the store's endpoints.
	etcd []string
}

// start runs an API server whose data is in dir, until the test ends or stop is called. agentPort is where it expects nodes.
func start(t *testing.T, dir string, agentPort int) (c *cluster, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	logger := slog.New(slog.DiscardHandler)
	store, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(dir, "etcd"), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := pki.Ensure(filepath.Join(dir, "pki"), pki.Names{DNS: []string{"localhost"}, IPs: []netip.Addr{loopback}})
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	server, err := apiserver.New(ctx, apiserver.Config{
		Port: port, AdvertiseAddress: netip.MustParseAddr("198.18.90.1"), EtcdEndpoints: store.Endpoints(), Keys: keys,
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}, NodePorts: allocation.Ports{Min: 30000, Max: 32767},
		APIServiceIP: netip.MustParseAddr("10.96.0.1"), DNSServiceIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")},
		ClusterDomain: "cluster.local", AgentPort: agentPort, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		store.Close()
	}
	t.Cleanup(stop)
	select {
	case <-server.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the server is not ready after a minute")
	}
	config := &rest.Config{Host: (&net.TCPAddr{IP: loopback.AsSlice(), Port: port}).String(), QPS: -1, TLSClientConfig: rest.TLSClientConfig{
		CAData: keys.CA.Cert, CertData: keys.Admin.Cert, KeyData: keys.Admin.Key}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{keys: keys, config: config, client: client, etcd: store.Endpoints()}, stop
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
