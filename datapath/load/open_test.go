package load_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/skep-io/skep/datapath/load"
)

func config(dir string) load.Config {
	return load.Config{
		Dir:            dir,
		ClusterNetwork: netip.MustParsePrefix("10.244.0.0/16"),
		PodNetwork:     netip.MustParsePrefix("10.244.0.0/24"),
		ServiceNetwork: netip.MustParsePrefix("10.96.0.0/16"),
		Router:         netip.MustParseAddr("10.244.0.1"),
	}
}

// pins gives a directory for pins of this test's own.
func pins(t *testing.T) string {
	dir := fmt.Sprintf("/sys/fs/bpf/skep-test-%d-%s", os.Getpid(), t.Name())
	t.Cleanup(func() {
		if err := load.Cleanup(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestOpenTwice(t *testing.T) {
	dir := pins(t)
	for range 2 {
		o, err := load.Open(config(dir))
		if err != nil {
			t.Fatal(err)
		}
		o.Close()
	}
}
