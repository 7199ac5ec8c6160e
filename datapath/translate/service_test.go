package translate

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/skep-io/skep/datapath/desired"
)

var view = View{
	NodeName: "here", Zone: "east",
	DNS: map[netip.Addr]netip.AddrPort{
		netip.MustParseAddr("10.96.0.10"): netip.MustParseAddrPort("10.244.0.1:53"),
		netip.MustParseAddr("fd00:96::a"): netip.MustParseAddrPort("[fd00:244::1]:53"),
	},
}

// TestService reads every file of testdata/service: the objects of one Service as YAML documents, then after a line of
// "### want" the rows as text.
func TestService(t *testing.T) {
	files, err := filepath.Glob("testdata/service/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(b), "### want\n")
			svc, endpointSlices := decode(t, input)
			got := format(Service(svc, endpointSlices, view))
			if got != uncomment(want) {
				t.Errorf("got:\n%swant:\n%s", got, uncomment(want))
			}
			slices.Reverse(endpointSlices)
			if again := format(Service(svc, endpointSlices, view)); again != got {
				t.Errorf("another order of the slices gives:\n%s", again)
			}
		})
	}
}

func decode(t *testing.T, input string) (*corev1.Service, []*discoveryv1.EndpointSlice) {
	t.Helper()
	var svc *corev1.Service
	var endpointSlices []*discoveryv1.EndpointSlice
	for _, doc := range strings.Split(input, "\n---\n") {
		var obj runtime.Object
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(doc), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		switch o := obj.(type) {
		case *corev1.Service:
			svc = o
		case *discoveryv1.EndpointSlice:
			endpointSlices = append(endpointSlices, o)
		}
	}
	return svc, endpointSlices
}

func format(rows []desired.Service) string {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "%s\n", r.Name)
		for _, f := range r.Frontends {
			fmt.Fprintf(&b, "  at %s/%s %s", f.Address, f.Protocol, f.Kind)
			for _, flag := range []struct {
				set  bool
				name string
			}{{f.Local, "local"}, {f.LocalOutside, "local-outside"}, {f.Restricted, "restricted"}} {
				if flag.set {
					fmt.Fprintf(&b, " %s", flag.name)
				}
			}
			b.WriteByte('\n')
		}
		for _, e := range r.Backends {
			fmt.Fprintf(&b, "  to %s/%s\n", e.Address, e.Protocol)
		}
		if r.Affinity > 0 {
			fmt.Fprintf(&b, "  affinity %d\n", r.Affinity)
		}
		if r.Least {
			b.WriteString("  least\n")
		}
		if r.Silent {
			b.WriteString("  silent\n")
		}
		for _, p := range r.SourceRanges {
			fmt.Fprintf(&b, "  for %s\n", p)
		}
	}
	return b.String()
}

// uncomment makes the expected rows valid YAML comments in the file, so that editors do not complain.
func uncomment(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.TrimPrefix(line, "# "))
	}
	return b.String()
}

func TestNodeAddresses(t *testing.T) {
	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "192.0.2.9"},
		{Type: corev1.NodeExternalIP, Address: "192.0.2.3"},
		{Type: corev1.NodeExternalIP, Address: "192.0.2.9"},
		{Type: corev1.NodeInternalIP, Address: "fd00::2"},
		{Type: corev1.NodeHostName, Address: "node-a"},
	}}}
	want := []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("fd00::2")}
	if got := NodeAddresses(node); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
