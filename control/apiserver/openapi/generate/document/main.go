// Document writes the archive of the OpenAPI documents. It is built and run by the program generate, which puts the definitions of the
// Go types in.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: document ARCHIVE")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "document:", err)
		os.Exit(1)
	}
}

// write builds all documents and puts them into the file.
func write(path string) error {
	documents, err := build()
	if err != nil {
		return err
	}
	content, err := pack(documents)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return os.WriteFile(path, content, 0o644)
}
