package reconcile_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/datapath/bpfmap"
	"github.com/skep-io/skep/datapath/reconcile"
	"github.com/skep-io/skep/datapath/translate"
)

// cluster is n Services with one EndpointSlice of two endpoints each.
type cluster struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
}

func makeCluster(n int) cluster {
	var c cluster
	port, name, tcp := int32(8080), "http", corev1.ProtocolTCP
	for i := range n {
		meta := metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("service-", i)}
		ip := netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})
		c.services = append(c.services, &corev1.Service{
			ObjectMeta: meta,
			Spec: corev1.ServiceSpec{
				ClusterIP: ip.String(), Ports: []corev1.ServicePort{{Name: name, Port: 80, Protocol: tcp}},
			},
		})
		c.slices = append(c.slices, &discoveryv1.EndpointSlice{
			ObjectMeta:  meta,
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}).String()}},
				{Addresses: []string{netip.AddrFrom4([4]byte{10, 245, byte(i >> 8), byte(i)}).String()}},
			},
		})
	}
	return c
}

func (c cluster) set(table *reconcile.Services, i int) {
	rows := translate.Service(c.services[i], c.slices[i:i+1], translate.View{})
	table.Set(reconcile.Owner{Namespace: "default", Name: c.services[i].Name}, rows)
}

func newTable(b *testing.B) *reconcile.Services {
	b.Helper()
	maps, err := bpfmap.Create()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(maps.Close)
	table, err := reconcile.Restore(maps, nil)
	if err != nil {
		b.Fatal(err)
	}
	return table
}

// BenchmarkCold is 10,000 Services with 2 endpoints each, from API objects to the kernel's maps. Expect less than 150 ms.
func BenchmarkCold(b *testing.B) {
	c := makeCluster(10000)
	for range b.N {
		b.StopTimer()
		table := newTable(b)
		b.StartTimer()
		for i := range c.services {
			c.set(table, i)
		}
		if err := table.Apply(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOneChange is one endpoint that comes or goes among many Services. It must not depend on how many there are.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := makeCluster(n)
			table := newTable(b)
			for i := range c.services {
				c.set(table, i)
			}
			if err := table.Apply(); err != nil {
				b.Fatal(err)
			}
			var worst time.Duration
			b.ResetTimer()
			for k := range b.N {
				i := k % n
				both := c.slices[i].Endpoints
				c.slices[i].Endpoints = both[:1]
				start := time.Now()
				c.set(table, i)
				if err := table.Apply(); err != nil {
					b.Fatal(err)
				}
				worst = max(worst, time.Since(start))
				c.slices[i].Endpoints = both
				c.set(table, i)
				if err := table.Apply(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(worst.Microseconds()), "worst-us")
		})
	}
}
