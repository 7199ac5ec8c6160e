// Generate writes the OpenAPI documents of the API server into the archive named by its argument.
//
// The documents are made of two things: the definitions of the Go types with their comments, which openapi-gen reads from source,
// and the routes that the request installer of k8s.io/apiserver makes of the API table. The first is Go code that has to be compiled to
// be used, so a second program, document, is built with it; the generated code lives in a temporary directory and takes the place of
// package definitions by an overlay. Nothing but the archive changes in the tree.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skep-io/skep/control/api"
)

// here is the import path of this program.
const here = "github.com/skep-io/skep/control/apiserver/openapi/generate"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate ARCHIVE")
		os.Exit(2)
	}
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// generate writes the archive.
func generate(archive string) error {
	dir, err := os.MkdirTemp("", "openapi-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	arguments := []string{"tool", "openapi-gen", "--output-dir", dir, "--output-pkg", here + "/definitions", "--output-file", "definitions.go",
		"--report-filename", os.DevNull, "--go-header-file", os.DevNull}
	if err := run("go", append(arguments, packages()...)...); err != nil {
		return fmt.Errorf("definitions of the Go types: %w", err)
	}
	overlay, err := writeOverlay(dir)
	if err != nil {
		return err
	}
	if err := run("go", "run", "-overlay", overlay, here+"/document", archive); err != nil {
		return fmt.Errorf("documents: %w", err)
	}
	return nil
}

// packages are the import paths of the Go types that are served, and of those that they are made of.
func packages() []string {
	paths := []string{
		"k8s.io/apimachinery/pkg/api/resource",
		"k8s.io/apimachinery/pkg/runtime",
		"k8s.io/apimachinery/pkg/util/intstr",
		"k8s.io/apimachinery/pkg/version",
	}
	for _, t := range api.NewNamingScheme().AllKnownTypes() {
		paths = append(paths, t.PkgPath())
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// writeOverlay puts the generated definitions in dir in the place of those in the tree. It returns the overlay file for the go command.
func writeOverlay(dir string) (string, error) {
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", here+"/definitions").Output()
	if err != nil {
		return "", fmt.Errorf("directory of package definitions: %w", err)
	}
	replaced := filepath.Join(strings.TrimSpace(string(out)), "definitions.go")
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {replaced: filepath.Join(dir, "definitions.go")}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, overlay, 0o600)
}

// run executes a command with the output of this program.
func run(name string, arguments ...string) error {
	command := exec.Command(name, arguments...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	return command.Run()
}
