package cni

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

func TestInstallation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	i := Installation{BinDir: dir + "/bin", ConfDir: dir + "/net.d", Binary: dir + "/skep", Socket: "/run/skep/cni.sock", Record: dir + "/cni.json"}
	if err := os.WriteFile(i.Binary, []byte("one"), 0o755); err != nil {
		t.Fatal(err)
	}
	if Installed(i.Record) {
		t.Error("installed before Begin")
	}
	if err := i.Begin(); err != nil || !Installed(i.Record) {
		t.Fatalf("Begin: %v", err)
	}
	// Again and again, as agents start; the last time with a newer binary.
	for _, binary := range []string{"one", "one", "two"} {
		if err := os.Remove(i.Binary); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(i.Binary, []byte(binary), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := i.InstallPlugin(); err != nil {
			t.Fatal(err)
		}
		if before, err := i.InstallConfig(); err != nil || before != "" {
			t.Fatalf("InstallConfig: %q %v", before, err)
		}
		for _, name := range []string{"skep", "loopback"} {
			if data, err := os.ReadFile(filepath.Join(i.BinDir, name)); err != nil || string(data) != binary {
				t.Errorf("plugin %s: %q %v, want %q", name, data, err, binary)
			}
		}
	}
	var list types.NetConfList
	data, err := os.ReadFile(filepath.Join(i.ConfDir, configName))
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	if err != nil || list.Name != "skep" || list.CNIVersion != "1.0.0" || len(list.Plugins) != 1 || list.Plugins[0].Type != "skep" {
		t.Errorf("network: %v %s", err, data)
	}

	for range 2 {
		if err := Remove(i.Record); err != nil {
			t.Fatal(err)
		}
	}
	if err := Forget(i.Record); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{i.BinDir, i.ConfDir} {
		if entries, err := os.ReadDir(d); err != nil || len(entries) > 0 {
			t.Errorf("left in %s: %v %v", d, entries, err)
		}
	}
	if Installed(i.Record) {
		t.Error("the record is left")
	}
}

// What others installed stays, and is told of where it comes first.
func TestInstallationBesideOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	i := Installation{BinDir: dir, ConfDir: dir, Socket: "/s", Record: dir + "/record"}
	first := filepath.Join(dir, "05-other.conflist")
	for _, f := range []string{filepath.Join(dir, "loopback"), first, filepath.Join(dir, ".hidden.conf")} {
		if err := os.WriteFile(f, []byte("theirs"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// No second name can be given to a file of another file system; it is copied.
	i.Binary = "/proc/self/exe"
	if err := i.InstallPlugin(); err != nil {
		t.Fatal(err)
	}
	if self, err := os.Stat(i.Binary); err != nil {
		t.Error(err)
	} else if info, err := os.Stat(filepath.Join(dir, "skep")); err != nil || info.Size() != self.Size() || info.Mode() != 0o755 {
		t.Errorf("plugin: %v %v", info, err)
	}
	if before, err := i.InstallConfig(); err != nil || before != first {
		t.Errorf("preferred: %q %v, want %s", before, err, first)
	}
	if err := Remove(i.Record); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"loopback", "05-other.conflist"} {
		if data, err := os.ReadFile(filepath.Join(dir, f)); err != nil || string(data) != "theirs" {
			t.Errorf("%s: %q %v", f, data, err)
		}
	}
}
