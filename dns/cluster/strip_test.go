package cluster

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skep-io/skep/dns/vector"
)

// TestStripKeepsRecords: what is left of the objects makes the same records.
func TestStripKeepsRecords(t *testing.T) {
	var services []*corev1.Service
	full, stripped := map[string][]*discoveryv1.EndpointSlice{}, map[string][]*discoveryv1.EndpointSlice{}
	for _, obj := range vector.Objects() {
		switch o := obj.(type) {
		case *corev1.Service:
			services = append(services, o)
		case *discoveryv1.EndpointSlice:
			id := o.Namespace + "/" + sliceService(o)
			s, err := Strip(o)
			if err != nil {
				t.Fatal(err)
			}
			full[id], stripped[id] = append(full[id], o), append(stripped[id], s.(*discoveryv1.EndpointSlice))
			if got := s.(*discoveryv1.EndpointSlice); sliceService(got) != sliceService(o) {
				t.Errorf("slice %s/%s is of Service %q", o.Namespace, o.Name, sliceService(got))
			}
		}
	}
	if len(services) == 0 {
		t.Fatal("no Services in the vectors")
	}
	for _, svc := range services {
		s, err := Strip(svc)
		if err != nil {
			t.Fatal(err)
		}
		id := svc.Namespace + "/" + svc.Name
		want, got := newRecord(svc, full[id], DefaultTTL), newRecord(s.(*corev1.Service), stripped[id], DefaultTTL)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the record of the stripped objects is %+v, not %+v", id, got, want)
		}
	}
}
