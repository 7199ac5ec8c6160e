// Package tree tests the tree itself: who may import whom, and that every package says what it is.
package tree

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/skep-io/skep/"

type pkg struct {
	ImportPath   string
	Doc          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,GoFiles", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// under says whether path is root or below it.
func under(path string, roots ...string) bool {
	for _, root := range roots {
		if path == root || strings.HasPrefix(path, root+"/") {
			return true
		}
	}
	return false
}

func TestImportRules(t *testing.T) {
	const ebpf, netlink, containerd = "github.com/cilium/ebpf", "github.com/vishvananda/netlink", "github.com/containerd/containerd"
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		for _, path := range p.Imports {
			to, own := strings.CutPrefix(path, module)
			var rule string
			switch {
			case own && under(to, "cmd", "test") && !under(from, "cmd", "test"):
				rule = "nothing imports cmd or test"
			case own && under(from, "datapath") && under(to, "control") && (to != "control/api" || from != "datapath/translate"):
				rule = "datapath imports of control only control/api, and only in translate"
			case own && under(from, "dns") && under(to, "control") && to != "control/api":
				rule = "dns imports of control only control/api"
			case own && under(from, "control") && under(to, "datapath") && !under(from, "control/agent"):
				rule = "control imports datapath only in control/agent"
			case under(path, containerd) && under(from, "control", "datapath", "dns") && !under(from, "control/agent/runtime", "control/agent/image"):
				rule = "the containerd client appears only in control/agent/runtime and image"
			case under(path, netlink) && !under(from, "datapath/podnet", "datapath/reconcile", "datapath/rtnl", "test"):
				rule = "netlink appears only in datapath/{podnet,reconcile,rtnl}"
			case under(path, ebpf) && !under(from, "datapath/abi", "datapath/bpfmap", "datapath/load", "datapath/observe", "test"):
				rule = "cilium/ebpf appears only in datapath/{abi,bpfmap,load,observe}"
			case under(path, "k8s.io/kubernetes"):
				rule = "k8s.io/kubernetes is never imported"
			default:
				continue
			}
			t.Errorf("%s imports %s: %s", from, path, rule)
		}
	}
}

func TestPackagesAreNamedAndDocumented(t *testing.T) {
	for _, p := range packages(t) {
		for _, part := range strings.Split(strings.TrimPrefix(p.ImportPath, module), "/") {
			switch part {
			case "util", "utils", "common", "helper", "helpers", "misc", "base", "types", "pkg", "internal":
				t.Errorf("%s: %q says nothing about what the package is", p.ImportPath, part)
			}
		}
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package documentation", p.ImportPath)
		}
	}
}
